"""Attribution maps of any timm or torchvision classifier, and metrics for them.

    from repro.interpret.cam import cam, grad_cam_pp
    from repro.interpret.rollout import gradient_rollout, rollout
    from repro.interpret.gradcat import gradcat
    maps = cam(model, images, classes)            # (B, h, w), raw
    tree = gradcat(model, images, classes)        # the path through NesT's blocks

Each is a function of model, images and classes that removes its hooks and leaves the model as it
was. `heatmap` scales and resizes maps; `pointing` and `faithfulness` score them; `boxes`, `box_iou`
and `box_accuracy` turn them into boxes. Where no valid map exists, they raise `InterpretError` with
a message of one line. The package imports only `models` and `data` of the project.
"""
