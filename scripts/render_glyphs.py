"""Render the embedded set 'glyphs': 100 characters in open typefaces packaged by Debian.

`python scripts/render_glyphs.py` needs fontTools and the packages named below; an error names what
is missing. Train and test split have different families: a family is in one split with all its
faces, its relatives and its metric-compatible copies. The same fonts and the same Pillow, which
includes FreeType, give the same bytes; the committed set was rendered by Pillow 13.0.0.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from repro.data.atlas import EMBEDDED, write_atlas
from repro.data.images import Bytes

# Characters that some typeface draws alike at equal size appear once: one of each of
# 0 O o, 1 I l | !, C c, J j, K k κ, P p ρ, S s, U u υ, V v ν, X x × χ, Y y γ, Z z, a α, n η, q 9,
# A Λ, Θ θ, Φ φ Ф, Ψ ψ, З 3, Ь b, б 6, [ {, and of A, B, E, ... the Latin one of three alphabets.
CHARACTERS = (
    "123456789"
    "ABCDEFGHJKLMNOPQRSTUVWXYZ"
    "abdefghimnrt"
    "ΓΔΞΣΦΨΩβδεθλμξπσω"
    "БДЖИЙЛЦЧШЩЪЫЭЮЯ"
    '#$%&?@*+=<>{(/;^"§÷±¶~'
)
SIDE = 32  # px
BODY = 24  # px; the longer side of a character for the checks
SIZES = 17, 25  # px; the longer side in the picture
TILT = 8  # degrees, at most, either way
SHIFT = 2  # px off the centre, at most, each way
OVERSAMPLING = 8  # factor; drawn larger, then averaged


class Typeface(NamedTuple):
    """A family with its relatives; similar typefaces are in the same split."""

    family: str
    licence: str
    faces: tuple[str, ...]  # package/file; of a collection, the first font


TRAIN = (
    Typeface(
        "DejaVu, Hack",
        "Bitstream Vera",
        (
            "fonts-dejavu-core/DejaVuSans.ttf",
            "fonts-dejavu-core/DejaVuSerif-Bold.ttf",
            "fonts-hack/Hack-Italic.ttf",
        ),
    ),
    Typeface(
        "Liberation, STIX (the metrics and forms of Arial, Times, Courier)",
        "OFL-1.1",
        (
            "fonts-liberation2/LiberationSans-Regular.ttf",
            "fonts-liberation2/LiberationSerif-Italic.ttf",
            "fonts-liberation2/LiberationMono-Bold.ttf",
            "fonts-stix/STIXGeneral-Regular.otf",
        ),
    ),
    Typeface(
        "Noto",
        "OFL-1.1",
        (
            "fonts-noto-core/NotoSans-Bold.ttf",
            "fonts-noto-core/NotoSerif-Italic.ttf",
            "fonts-noto-mono/NotoSansMono-Regular.ttf",
        ),
    ),
    Typeface(
        "Open Sans (the skeleton of Noto)", "Apache-2.0", ("fonts-open-sans/OpenSans-Light.ttf",)
    ),
    Typeface(
        "Roboto",
        "Apache-2.0",
        (
            "fonts-roboto-unhinted/RobotoCondensed-Italic.ttf",
            "fonts-roboto-slab/RobotoSlab-Bold.otf",
        ),
    ),
    Typeface(
        "Computer Modern Unicode",
        "OFL-1.1",
        (
            "fonts-cmu/cmunrm.ttf",
            "fonts-cmu/cmunsx.ttf",
            "fonts-cmu/cmuntt.ttf",
            "fonts-cmu/cmunti.ttf",
        ),
    ),
    Typeface(
        "Linux Libertine, Linux Biolinum",
        "OFL-1.1",
        ("fonts-linuxlibertine/LinLibertine_R.otf", "fonts-linuxlibertine/LinBiolinum_RB.otf"),
    ),
    Typeface(
        "Gentium",
        "OFL-1.1",
        (
            "fonts-sil-gentiumplus/GentiumPlus-Regular.ttf",
            "fonts-sil-gentiumplus/GentiumBookPlus-BoldItalic.ttf",
        ),
    ),
    Typeface("Go", "BSD-3-Clause", ("fonts-go/Go-Bold.ttf", "fonts-go/Go-Mono-Italic.ttf")),
    Typeface("Lato", "OFL-1.1", ("fonts-lato/Lato-Black.ttf",)),
    Typeface(
        "Carlito (drawn from Lato)", "OFL-1.1", ("fonts-crosextra-carlito/Carlito-Italic.ttf",)
    ),
    Typeface(
        "JetBrains Mono",
        "Apache-2.0",
        (
            "fonts-jetbrains-mono/JetBrainsMono-Regular.ttf",
            "fonts-jetbrains-mono/JetBrainsMono-ExtraBoldItalic.ttf",
        ),
    ),
    Typeface(
        "Fantasque Sans Mono",
        "OFL-1.1",
        ("fonts-fantasque-sans/Normal/TTF/FantasqueSansMono-Regular.ttf",),
    ),
    Typeface(
        "Inter",
        "OFL-1.1",
        ("fonts-inter/Inter-Regular.otf", "fonts-inter/InterDisplay-BlackItalic.otf"),
    ),
    Typeface(
        "Cantarell",
        "OFL-1.1",
        ("fonts-cantarell/Cantarell-Regular.otf", "fonts-cantarell/Cantarell-ExtraBold.otf"),
    ),
    Typeface("Comfortaa", "OFL-1.1", ("fonts-comfortaa/Comfortaa-Bold.ttf",)),
    Typeface("Jura", "OFL-1.1", ("fonts-jura/Jura-Medium.otf",)),
    Typeface("Clear Sans", "Apache-2.0", ("fonts-clear-sans/ClearSans-MediumItalic.ttf",)),
    Typeface(
        "Old Standard",
        "OFL-1.1",
        ("fonts-oldstandard/OldStandard-Regular.ttf", "fonts-oldstandard/OldStandard-Italic.ttf"),
    ),
    Typeface(
        "Nanum, D2Coding",
        "OFL-1.1",
        (
            "fonts-nanum/NanumGothic.ttf",
            "fonts-nanum/NanumMyeongjoBold.ttf",
            "fonts-nanum/NanumSquareRoundB.ttf",
            "fonts-naver-d2coding/D2Coding-Ver1.3.2-20180524-all.ttc",
        ),
    ),
    Typeface("Reggae One", "OFL-1.1", ("fonts-reggae/ReggaeOne-Regular.ttf",)),
    Typeface("RocknRoll One", "OFL-1.1", ("fonts-rocknroll/RocknRollOne-Regular.ttf",)),
    Typeface("Train One", "OFL-1.1", ("fonts-train/TrainOne-Regular.ttf",)),
    Typeface("Rampart One", "OFL-1.1", ("fonts-rampart/RampartOne-Regular.ttf",)),
    Typeface("Stick", "OFL-1.1", ("fonts-stick/Stick-Regular.ttf",)),
    Typeface("DotGothic16", "OFL-1.1", ("fonts-dotgothic16/DotGothic16-Regular.ttf",)),
    Typeface(
        "Baekmuk",
        "Baekmuk (MIT-like; Baekmuk Batang, Baekmuk Dotum, Baekmuk Gulim, and "
        "Baekmuk Headline are registered trademarks owned by Kim Jeong-Hwan)",
        ("fonts-baekmuk/batang.ttf", "fonts-baekmuk/gulim.ttf", "fonts-baekmuk/hline.ttf"),
    ),
    Typeface("mononoki", "OFL-1.1", ("fonts-mononoki/mononoki-Regular.ttf",)),
    Typeface(
        "Caslon, Caliban (George Williams)",
        "OFL-1.1",
        ("fonts-georgewilliams/CaslonRoman.ttf", "fonts-georgewilliams/Caliban.ttf"),
    ),
    Typeface(
        "Motoya L",
        "Apache-2.0",
        ("fonts-motoya-l-cedar/MTLc3m.ttf", "fonts-motoya-l-maruberi/MTLmr3m.ttf"),
    ),
    Typeface("YOzFont", "OFL-1.1", ("fonts-yozvox-yozfont-standard-kana/YOzRS_.ttf",)),
    Typeface("IBM 3270", "BSD-3-Clause", ("fonts-3270/3270-Regular.ttf",)),
    Typeface("Seto", "OFL-1.1", ("fonts-seto/setofont.ttf",)),
    Typeface("Fira Code", "OFL-1.1", ("fonts-firacode/FiraCode-SemiBold.ttf",)),
    Typeface("Manrope", "OFL-1.1", ("fonts-manrope/Manrope-Regular.ttf",)),
)
TEST = (
    Typeface(
        "EB Garamond",
        "OFL-1.1",
        ("fonts-ebgaramond/EBGaramond12-Regular.otf", "fonts-ebgaramond/EBGaramond12-Italic.otf"),
    ),
    Typeface(
        "Vollkorn",
        "OFL-1.1",
        ("fonts-vollkorn/Vollkorn-Regular.ttf", "fonts-vollkorn/Vollkorn-Black.ttf"),
    ),
    Typeface("Play", "OFL-1.1", ("fonts-play/Play-Regular.otf",)),
    Typeface("Monoid", "MIT", ("fonts-monoid/Monoid-Italic.ttf",)),
    Typeface("Agave", "MIT", ("fonts-agave/agave-r-autohinted.ttf",)),
    Typeface("Anonymous Pro", "OFL-1.1", ("fonts-anonymous-pro/Anonymous Pro B.ttf",)),
    Typeface("Tuffy", "public domain", ("fonts-tuffy/Tuffy.ttf",)),
    Typeface(
        "Baedal Minjok (BM)",
        "OFL-1.1",
        ("fonts-woowa-bm/BMDOHYEON_ttf.ttf", "fonts-woowa-bm/BMYEONSUNG_ttf.ttf"),
    ),
    Typeface(
        "BIZ UD",
        "OFL-1.1",
        (
            "fonts-morisawa-bizud-gothic/BIZUDPGothic-Bold.ttf",
            "fonts-morisawa-bizud-mincho/BIZUDPMincho-Regular.ttf",
        ),
    ),
    Typeface("Klee One", "OFL-1.1", ("fonts-klee/KleeOne-SemiBold.ttf",)),
    Typeface("Smiley Sans", "OFL-1.1", ("fonts-smiley-sans/SmileySans-Oblique.ttf",)),
    Typeface("Kiloji", "BSD-3-Clause", ("fonts-kiloji/kiloji_p.ttf",)),
    Typeface("Konatu", "MIT", ("fonts-konatu/Konatu.ttf",)),
    Typeface(
        "Source Sans, Source Serif (in Noto CJK)",
        "OFL-1.1",
        ("fonts-noto-cjk/NotoSansCJK-Regular.ttc", "fonts-noto-cjk/NotoSerifCJK-Bold.ttc"),
    ),
    Typeface(
        "Inconsolata, Circle M+", "OFL-1.1", ("fonts-ricty-diminished/RictyDiminished-Bold.ttf",)
    ),
)


def render(output: Path) -> None:
    """Write the atlases and the manifest of 'glyphs' to `output`."""
    splits, families, plain = {}, {}, {}
    for split, typefaces in (("train", TRAIN), ("test", TEST)):
        faces = [find(face) for typeface in typefaces for face in typeface.faces]
        pairs = [draw_all(face) for face in faces]
        plain[split] = np.stack([first for first, _ in pairs])  # (faces, 100, 32, 32)
        glyphs = np.stack([second for _, second in pairs], axis=1)  # (100, faces, 32, 32)
        labels = np.repeat(np.arange(len(CHARACTERS)), len(faces))
        splits[split] = glyphs.reshape(-1, SIDE, SIDE), labels
        families[split] = [about(typeface) for typeface in typefaces]
    check_copies(plain["train"], plain["test"])
    write_atlas(
        output,
        "glyphs",
        splits,
        {
            "source": "characters drawn from the typefaces named below, as Debian 12 packages them",
            "licence": "the pictures are the project's own, Apache-2.0; each typeface's is below",
            "script": "scripts/render_glyphs.py",
            "order": "in each class one picture for each face, in the order of 'typefaces'",
            "typefaces": families,
            "classes": tuple(CHARACTERS),
        },
    )


def find(face: str) -> Path:
    """The installed file of 'package/file'."""
    package, _, name = face.partition("/")
    listing = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False)
    for line in listing.stdout.splitlines():
        if line.endswith(f"/{name}"):
            return Path(line)
    raise SystemExit(f"{face}: not installed; run apt-get install {package}")


def about(typeface: Typeface) -> dict[str, object]:
    """The manifest's entry for a family: its licence, faces, and packages with versions."""
    packages = sorted({face.partition("/")[0] for face in typeface.faces})
    command = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\\n", *packages]
    output_text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "family": typeface.family,
        "licence": typeface.licence,
        "packages": dict(line.split() for line in output_text.splitlines()),
        "faces": typeface.faces,
    }


def draw_all(path: Path) -> tuple[Bytes, Bytes]:
    """Two arrays (100, 32, 32): every character of a face, plain and varied.

    A face without one of the characters ends the script.
    """
    mapping = TTFont(path, fontNumber=0, lazy=True).getBestCmap()
    if missing := [c for c in CHARACTERS if mapping.get(ord(c), ".notdef") == ".notdef"]:
        raise SystemExit(f"{path}: has no {' '.join(missing)}")
    # Basic layout: the same with and without libraqm.
    font = ImageFont.truetype(path, 256, layout_engine=ImageFont.Layout.BASIC)
    plain = np.stack([draw(font, character) for character in CHARACTERS])
    check(plain, path)
    return plain, np.stack([vary(font, path.name, character) for character in CHARACTERS])


def check(glyphs: Bytes, path: Path) -> None:
    """End the script on a blank, clipped or repeated picture, such as the box for a missing
    glyph."""
    margin = (SIDE - BODY) // 2 - 1
    inner = glyphs[:, margin:-margin, margin:-margin].astype(int)
    for index, character in enumerate(CHARACTERS):
        if inner[index].sum() < 8 * 255:
            raise SystemExit(f"{path}: {character} is blank")
        if inner[index].sum() != glyphs[index].sum():
            raise SystemExit(f"{path}: {character} is clipped or off the centre")
        distances = np.abs(inner - inner[index]).sum((1, 2))
        if (distances < 8 * 255).sum() > 1:  # one is the distance to itself
            raise SystemExit(f"{path}: {character} looks like another character")


def check_copies(train: Bytes, test: Bytes) -> None:
    """End the script if a test face has the outlines of a train face."""
    for face, glyphs in enumerate(test):
        distances = np.abs(train.astype(int) - glyphs).sum((2, 3)) / 255  # in white pixels
        if (closest := np.median(distances, axis=1).min()) < 30:
            raise SystemExit(f"test face {face} copies a train face (distance {closest:.0f})")


def draw(font: ImageFont.FreeTypeFont, character: str) -> Bytes:
    """(32, 32): the character in white on black, its ink centred and its longer side 24 px."""
    size = font.size * BODY * OVERSAMPLING / max(ink(font, character).size)
    glyph = ink(font.font_variant(size=size), character)
    canvas = Image.new("L", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING))
    canvas.paste(glyph, ((canvas.width - glyph.width) // 2, (canvas.height - glyph.height) // 2))
    return np.asarray(canvas.reduce(OVERSAMPLING))


def vary(font: ImageFont.FreeTypeFont, face: str, character: str) -> Bytes:
    """(32, 32): the character with a size, tilt and position derived from its name.

    Without this, a nearest neighbour on raw pixels classifies 93 % of the test set.
    """
    draws = np.random.default_rng(list(hashlib.sha256(f"{face} {character}".encode()).digest()))
    large = ink(font, character).rotate(
        draws.uniform(-TILT, TILT), Image.Resampling.BICUBIC, expand=True
    )
    large = large.crop(large.getbbox())
    scale = draws.uniform(*SIZES) * OVERSAMPLING / max(large.size)
    width, height = (max(1, round(side * scale)) for side in large.size)
    glyph = large.resize((width, height), Image.Resampling.BOX)
    side, shift = SIDE * OVERSAMPLING, draws.uniform(-SHIFT, SHIFT, size=2) * OVERSAMPLING
    left, top = ((side - n) // 2 + round(d) for n, d in zip(glyph.size, shift, strict=True))
    canvas = Image.new("L", (side, side))
    canvas.paste(glyph, (left, top))
    return np.asarray(canvas.reduce(OVERSAMPLING))


def ink(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """The character cropped to its ink; `getbbox` alone would include side bearings."""
    left, top, right, bottom = map(round, font.getbbox(character))
    margin = round(font.size)
    canvas = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin))
    ImageDraw.Draw(canvas).text((margin - left, margin - top), character, fill=255, font=font)
    return canvas.crop(canvas.getbbox() or (0, 0, 1, 1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=EMBEDDED)
    render(parser.parse_args().output)
