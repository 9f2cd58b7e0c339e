"""Figure 5, right: parameters and throughput of the three generators.

The paper's factor of eight between Transposed NesT and TransGAN is the cost of making all of
TransGAN's 4096 x 4096 attention scores; kernels that fuse attention never do. So both are measured.
"""

from __future__ import annotations

from dataclasses import replace

from repro.experiments import adversarial_recipes as recipes
from repro.spec import Cell, Claim, Decision, Experiment, Model, PaperValue, Profiling

SIZE, PLAIN, FUSED = "#Params", "plain attention", "fused attention"
SPEED = "images/s"
_PLACE = "Figure 5, right"
PRINTED = {
    ("Convnet", SIZE): PaperValue(77.8e6, _PLACE),
    ("TransGAN", SIZE): PaperValue(82.6e6, _PLACE),
    ("Transposed NesT", SIZE): PaperValue(74.4e6, _PLACE),
    ("Convnet", PLAIN): PaperValue(709.1, _PLACE),
    ("TransGAN", PLAIN): PaperValue(67.7, _PLACE),
    ("Transposed NesT", PLAIN): PaperValue(523.7, _PLACE),
}


def _cells(row: str, model: Model) -> list[Cell]:
    counted = Profiling(model=model, classes=0, image_size=64)
    found = [
        Cell(group="", row=row, column=SIZE, run=counted, paper=PRINTED[row, SIZE],
             metric="parameters", proxy=counted)
    ]  # fmt: skip
    fast = replace(counted, device="H100", precision="bf16", batch_size=64)
    plain, fused = replace(fast, attention="plain"), replace(fast, attention="fused")
    if row == "Convnet":  # it has no attention to be fused
        plain = fused = fast
    for panel, run in ((PLAIN, plain), (FUSED, fused)):
        found.append(
            Cell(group="", row=row, column=SPEED, panel=panel, run=run,
                 paper=PRINTED.get((row, panel)), metric="forward_images_per_second",
                 proxy=replace(run, device="cpu", precision="fp32", batch_size=4))
        )  # fmt: skip
    return found


EXPERIMENT = Experiment(
    name="figure5_right",
    place="Figure 5, right",
    title="Size and throughput of the generators",
    caption="Forward passes on one device, images of 64 px.",
    cells=tuple(c for row, model in recipes.GENERATORS.items() for c in _cells(row, model)),
    showcase=("Transposed NesT",),
    headings=("", "Generator"),
    claims=tuple(
        Claim(f"it achieves 8× throughput over TransGAN ({panel})", "Generative Modeling",
              (("Transposed NesT", SPEED, panel),), (("TransGAN", SPEED, panel),))
        for panel in (PLAIN, FUSED)
    ),
    decisions=(
        *recipes.DECISIONS[1:5],
        Decision("throughput", "forward pass, bf16, batch 64, one H100",
                 "fp32, another batch, another device", "the paper says nothing of it"),
        Decision("which column the paper's throughput belongs to", "plain attention", "fused",
                 "kernels that fuse attention came later; with them the factor of eight vanishes"),
    ),
)  # fmt: skip
