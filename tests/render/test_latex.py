"""LaTeX tables, compiled by pdfLaTeX as a reader would, in the packages that each file names."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from repro import experiments
from repro.core.scales import runs_at_scale
from repro.render.frame import tidy
from repro.render.latex import PACKAGES, latex
from repro.render.tex_escape import tex
from repro.spec import SCALES, Decision, Experiment, Scale
from tests.render.sample import cell, fill_frame

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "tables").rglob("*.tex"))
WIDTHS = r"""\let\plain\resizebox
\renewcommand{\resizebox}[3]{%
  \sbox0{#3}\typeout{WIDTH \the\wd0 of \the\linewidth}\plain{#1}{#2}{#3}}"""

WRONG = r"(?m)^(?:Overfull|Underfull \\hbox.*paragraph|.*(?:undefined|multiply|too large)).*$"


def compile_tables(sources: Sequence[str], folder: Path, passes: int = 2) -> str:
    """The log of a paper that consists of these tables, once its references are known."""
    for number, source in enumerate(sources):
        (folder / f"{number}.tex").write_text(source, encoding="ascii")
    body = "\n".join(rf"\input{{{number}.tex}}\clearpage" for number in range(len(sources)))
    text = rf"\documentclass{{article}}{PACKAGES}{WIDTHS}\begin{{document}}{body}\end{{document}}"
    (folder / "paper.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(passes):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
    return (folder / "paper.log").read_text(errors="replace")


def test_every_committed_table_compiles_within_its_page(tmp_path: Path) -> None:
    assert len(COMMITTED) > 30
    sources = [path.read_text(encoding="ascii") for path in COMMITTED]
    assert all(f"needs {PACKAGES}" in source.splitlines()[0] for source in sources)
    log = compile_tables(sources, tmp_path)
    assert not re.findall(WRONG, log)
    widths = re.findall(r"WIDTH ([\d.]+)ptof ([\d.]+)pt", log)
    assert len(widths) >= len(sources) - 2
    assert min(float(line) / float(width) for width, line in widths) > 0.85  # of 8 points


@pytest.mark.parametrize("scale", SCALES)
def test_every_item_compiles_without_results(scale: Scale, tmp_path: Path) -> None:
    """Also at the scale of which no table is committed; labels differ from item to item."""
    sources = []
    for item in map(experiments.get, experiments.names()):
        if runs_at_scale(item.cells, scale):
            frame, _ = tidy(item, scale, tmp_path / "none", seeds=1)
            sources.append(latex(item, frame, scale))
    log = compile_tables(sources, tmp_path)
    assert not re.findall(WRONG, log)


HOSTILE = st.text(
    st.sampled_from("\\{}%#$^~&_[]*|<>\"'`-,?!\n\t\0\x1b\u200b\u202e×±−⁹∂é中😀")
    | st.characters(exclude_categories=["Cs"])
) | st.sampled_from([r"\input{/etc/passwd}", r"\end{table}", "[9cm]", "^^5c", "--", "%", "e\u0301"])


@settings(max_examples=4, phases=[Phase.generate])
@given(st.lists(HOSTILE, min_size=30, max_size=60, unique=True))
def test_any_text_is_text(texts: list[str]) -> None:
    """Names, titles, headings and notes are set, and none is a command."""
    names = [text.replace("\0", "") for text in texts]  # pandas tells strings apart up to a NUL
    cells = tuple(cell(f"{i}{name}"[i % 2 :], name, group=name) for i, name in enumerate(names))
    sources = []
    for first in range(0, len(cells), 3):
        title, caption, *_ = texts[first:] + texts
        item = Experiment(
            name=f"item{first}",
            place=caption,
            title=title,
            caption=caption,
            cells=cells[first : first + 3],
            headings=(title, caption),
            decisions=(Decision(*(texts[first:] + texts)[:4]),),
        )
        sources.append(latex(item, fill_frame(item, {}), "paper"))
    assert all(source.isascii() and source.isprintable() for source in "".join(sources).split("\n"))
    with TemporaryDirectory() as folder:
        compile_tables(
            [source.replace(r"\paragraph", r"\par") for source in sources], Path(folder), 1
        )


def test_every_character_is_set(tmp_path: Path) -> None:
    """All of the first plane that Python can write, in one paper; ours are signs and not codes."""
    chars = [chr(n) for n in range(1, 0x3000) if not 0xD800 <= n < 0xE000]
    source = "\\raggedright\n" + "\n".join(map(tex, chars))
    assert source.isascii()
    compile_tables([source], tmp_path, 1)
    used = {char for path in ROOT.glob("tables/**/*.md") for char in path.read_text()}
    assert len(used) > 80
    assert not [char for char in used if "U+" in tex(char)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % of a_b & {c}", r"50 \% of a\_b \& \{c\}"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("-0.5 and 3-4, well-known, (-1)", "$-$0.5 and 3-4, well-known, ($-$1)"),
        ("--decisions ''a''", "-{}-decisions '{}'a'{}'"),
        ("×10⁻⁹ αΛ ∂", r"$\times$10\textsuperscript{$-$}\textsuperscript{9} $\alpha$$\Lambda$ "
                       r"$\partial$"),
        ("Fréchet, Böhle, e\u0301", r"Fr\'{e}chet, B\"{o}hle, \'{e}"),
        ("a\n\n b\t", "a b"),
        ("`repro a_b --c` `", r"\texttt{repro a\_b -{}-c} \textasciigrave{}"),
        ("[1, 2] [3]", "{[}1, 2] [3]"),
        ("中\x1b", "{[}U+4E2D][U+001B]"),
    ],
)  # fmt: skip
def test_tex(text: str, expected: str) -> None:
    assert tex(text) == expected


@given(st.text("ab -'&%_#${}~^\\±×", max_size=20))
def test_tex_loses_nothing(text: str) -> None:
    back = tex(text).replace(r"\textbackslash{}", "\0")
    for written, char in ((r"$\pm$", "±"), (r"$\times$", "×"), ("$-$", "-")):
        back = back.replace(written, char)
    for char, name in (("~", "asciitilde"), ("^", "asciicircum")):
        back = back.replace(rf"\text{name}{{}}", char)
    back = re.sub(r"(?<!\\)\{\}", "", back)
    assert re.sub(r"\\([&%_#${}])", r"\1", back).replace("\0", "\\") == " ".join(text.split())


def test_parts_of_a_table() -> None:
    """A cell in two lines, a name over its columns, a group in a line, the notes in the text."""
    item = replace(experiments.get("table1"), cells=experiments.get("table1").cells[:6])
    item = replace(item, claims=())
    frame = fill_frame(item, {("DeiT-T", "C10", ""): [1.0, 3.0]})
    frame["difference"] = frame["mean"] - frame["paper"]
    frame["low"], frame["high"] = frame["mean"] - 0.5, frame["mean"] + 0.5
    source = latex(item, frame, "paper")
    stacked = r"\begin{tabular}{@{}r@{}}2.00 $\pm$ 1.41 (2)\\{[}1.50, 2.50]\end{tabular}"
    assert f"DeiT-T\\ddag{{}} & 88.39 & {stacked} & $-$86.39 & " in source
    assert r" & \multicolumn{3}{c}{C10} & \multicolumn{3}{c}{C100} \\" in source
    assert r"Method & paper & here & $\Delta$ & paper & here & $\Delta$ \\" in source
    assert "\n\\midrule \\multicolumn{7}{l}{\\textit{Convolutional}} \\\\\n" in source
    assert r"\label{tab:table1}" in source
    assert r"\label{tab:table1-demo}" in latex(item, fill_frame(item, {}, "demo"), "demo")
    float_, _, behind = source.partition(r"\end{table}")
    assert "standard deviation" in float_
    assert "Decisions" not in float_
    assert r"\paragraph{Notes to Table~\ref{tab:table1}.}" in behind
    assert r"\item PVT-B: the official Large" in behind
