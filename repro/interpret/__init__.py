"""Attribution maps of any timm or torchvision classifier, and what they are worth.

    from repro.interpret.cam import cam, grad_cam_pp
    from repro.interpret.rollout import gradient_rollout, rollout
    from repro.interpret.gradcat import gradcat
    maps = cam(model, images, classes)            # (B, h, w), raw
    tree = gradcat(model, images, classes)        # the path through NesT's blocks

Each is a function of model, images and classes; no hook outlives the call, and nothing of the
model is changed. `heatmap` scales and resizes; `metrics` and `faithfulness` score maps;
`boxes`, `localization` and `box_accuracy` make boxes of them. What no honest map can be made of is
an `InterpretError`, in one line. Of the rest of the project, it knows `models` and `data`.
"""
