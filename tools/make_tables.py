"""Writes the documentation's tables from what was recorded and what is there.

Measured figures are never typed: the README's results block and `docs/benchmarks.md` come from
`benchmarks/results/*.json`, and `docs/gallery.md` from the docstrings of `models/` and `guides/`
and the captions of their pictures.

Run `python tools/make_tables.py` to write them and `python tools/make_tables.py --check` to learn
whether they are up to date. A results file is one JSON object:

    {"case": str, "protocol": str, "device": str,
     "rows": [{"method": str, "seeds": [int, ...], <column>: value, ...}, ...]}

and "readme": false where the README is to leave the case to `docs/benchmarks.md`, or a list of the
columns that it is to show, and "pictures":
[{"file": path below docs/, "caption": str}, ...] for that page alone. A value is a number, a text,
null, or {"median": .., "min": .., "max": ..} over the seeds.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.markdown import table
from tools.scaling_page import render as render_scaling

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
THUMBNAIL = 150
"""Width of the small pictures of the gallery's tables, in pixels."""
HEADINGS = {
    "method": "method",
    "form": "form of the file",
    "runtime": "runtime",
    "test_error_percent": "test error, %",
    "predictive_error_percent": "test error of the predictive, %",
    "cut_error_percent": "test error of the cut network, %",
    "nll_of_thousand": "NLL of 1,000 test images, nats",
    "ece_percent": "calibration error (ECE), %",
    "weights_left_percent": "weights left, %",
    "error_percent_at_equal_size": "test error with 2 % of the weights, %",
    "structure": "structure",
    "clusters": "clusters",
    "mean_cluster_length": "mean cluster length",
    "index_bits_run_length": "index bits a weight (run-length)",
    "bytes": "file, bytes",
    "seconds": "training, s",
    "epoch_cost_ratio": "epoch cost / plain Adam's",
    "step_cost_ratio": "step cost / plain Adam's",
    "first_lr": "learning rate",
    "num_seeds": "seeds",
    "relevant_found": "inputs that matter, read",
    "read_in_vain": "others, read",
    "exactly_right": "exactly right, of 10",
    "set": "set",
    "test_log_likelihood": "test log-likelihood, nats",
    "test_rmse": "test RMSE",
    "posterior_mean_error_percent": "test error of the posterior mean, %",
    "quantised_error_percent": "test error of the file, %",
    "parameters": "parameters",
    "flops_percent": "FLOPs, % of the dense net's",
    "block_fill_percent": "8x8 blocks' fill, %",
    "cpu_seconds": "training, CPU s",
    "teacher_seconds": "teachers' training, s",
    "source": "read in",
    "gain": "gain in log-likelihood over SVI, nats",
    "rmse_gain": "gain in RMSE over SVI",
    "not_worse": "not worse",
    "setting": "setting",
    "problem": "problem",
    "support_difference_max": "difference of P(s = 1) from NUTS, largest",
    "support_difference_mean": "difference of P(s = 1) from NUTS, mean",
    "mean_difference_rms": "difference of posterior means, rms",
    "predictive_nll": "predictive NLL, nats",
    "nll_ratio_to_nuts": "NLL / NUTS's",
    "max_r_hat": "largest R-hat",
    "min_ess": "smallest effective sample size",
    "divergences": "divergences",
    "shape": "shape",
    "threads": "threads",
    "ns_per_variable": "ns per variable",
    "copy_share": "speed / plain copy's",
    "speed_up": "speed / one thread's",
    "times_ours": "time / ours",
    "cold_seconds": "seconds",
    "extra_memory": "extra memory / input's",
    "module_b_percent": "Module B's share of the time, %",
    "step_ms": "a step, ms",
    "exchange_ms": "an exchange, ms",
    "epoch_cost_ratio_fused": "epoch cost / fused Adam's",
    "support_f1_150": "support F1, 150 measurements",
    "support_f1_250": "support F1, 250 measurements",
    "support_f1_30": "support F1, 30 measurements",
    "inputs_f1_30": "inputs F1, 30",
    "support_f1_40": "support F1, 40 measurements",
    "inputs_f1_40": "inputs F1, 40",
    "support_f1_60": "support F1, 60 measurements",
    "inputs_f1_60": "inputs F1, 60",
    "times_smaller": "dense float32 bytes / file's",
    "flops": "FLOPs an input",
    "flops_reduction": "dense FLOPs / its",
    "not_finite": "runs not finite",
    "empty": "empty nets",
    "damaged": "pruning changes the error by 0.3 points or more",
    "gap_points": "change of the error by pruning, points",
    "mean_error_percent": "error of the posterior mean, %",
    "pruned_error_percent": "error of the pruned net, %",
    "renewed_error_percent": "error with new statistics, %",
    "batch": "batch",
    "load": "load",
    "adam_step_ms": "Adam, ms",
    "turbo_step_ms": "Turbo, ms",
    "lean_step_ms": "lean, ms",
    "turbo_step_ratio": "Turbo / Adam",
    "lean_step_ratio": "lean / Adam",
    "exchange_ns_per_weight": "an exchange, ns a weight",
    "adam_peak_floats": "Adam's peak, floats a parameter",
    "turbo_peak_floats": "Turbo's peak",
    "lean_peak_floats": "lean peak",
    "latency_1_us": "batch of 1, µs",
    "speed_up_1": "speed-up, batch of 1",
    "latency_256_us": "batch of 256, µs",
    "speed_up_256": "speed-up, batch of 256",
    "speed_up_share": "speed-up / reduction of FLOPs, batch of 256",
}
# The README shows what a reader compares first; everything is on the benchmarks page.
LEFT_OUT_OF_README = (
    "index_bits_run_length",
    "bytes",
    "seconds",
    "epoch_cost_ratio_fused",
)
#: The benchmarks page: headings, and how the names of their results files begin.
SECTIONS = {
    "Error against size": ("frontier",),
    "Priors and engines side by side": ("swap_priors", "lenet_300_100", "uci", "against_nuts"),
    "What is known is found": ("structured_recovery", "gated_recovery", "relevant_inputs"),
    "The network that is taken home": ("take_home",),
    "Time and memory": ("message_passing", "module_b_share", "scaling"),
    "Robustness": ("robustness",),
}
Result = Mapping[str, Any]


def load_results(folder: Path) -> dict[str, Result]:
    """Reads every results file of a folder.

    Args:
        folder: Where the JSON files are; it need not exist.

    Returns:
        The files' objects by the files' names, in the order of the benchmarks page.

    Raises:
        ValueError: A file lacks one of `case`, `protocol`, `device` and `rows`, or has a name that
            no section of the page is for.
    """
    results: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json"), key=_place):
        result = json.loads(path.read_text(encoding="utf-8"))
        missing = {"case", "protocol", "device", "rows"} - set(result)
        if missing:
            raise ValueError(f"{path.name} has no {', '.join(sorted(missing))}")
        results[path.stem] = result
    return results


def _place(path: Path) -> tuple[int, int, str]:
    """Section of a results file, place in it, and its name: the shorter the earlier."""
    for section, beginnings in enumerate(SECTIONS.values()):
        for place, beginning in enumerate(beginnings):
            if path.stem.startswith(beginning):
                return section, place, path.stem
    raise ValueError(f"{path.name} belongs to no section of the benchmarks page: see SECTIONS")


def render_readme(results: Iterable[Result]) -> str:
    """The README's tables: medians of the columns that a reader compares first.

    Args:
        results: Objects in the format of this module's docstring.

    Returns:
        Markdown; without any result, one table row that says "not measured yet".
    """
    shown = [result for result in results if result.get("readme", True)]
    if not shown:
        headings = [HEADINGS[key] for key in HEADINGS if key not in LEFT_OUT_OF_README]
        return table(headings, [["not measured yet"] + [""] * (len(headings) - 1)])
    return "\n\n".join(
        f"**{result['case']}**\n\n{_figures(result, brief=True)}\n\n{_circumstances(result)}"
        for result in shown
    )


def render_benchmarks(results: Mapping[str, Result]) -> str:
    """The benchmarks page.

    Args:
        results: What `load_results` gives.

    Returns:
        A Markdown page.
    """
    parts = [
        "# Benchmarks",
        "Each table is made by `tools/make_tables.py` from a JSON file in `benchmarks/results/`; "
        "no figure on this page is typed by hand. `make bench` runs the measurements again.",
        "Errors are those of the last epoch, never of the best one; every choice is made on a "
        "validation split of the training data. A cell with brackets is the median over the seeds "
        "and, in the brackets, the smallest and the largest value.",
    ]
    for section, beginnings in SECTIONS.items():
        cases = [result for name, result in results.items() if name.startswith(beginnings)]
        if cases:
            parts += [f"## {section}", *map(_render_case, cases)]
    return "\n\n".join(parts) + "\n"


def _render_case(result: Result) -> str:
    """A case of the benchmarks page: pictures, table, and how it was measured, folded."""
    images = [
        f"![{picture['caption']}]({picture['file']})<br>*{picture['caption']}*"
        for picture in result.get("pictures", [])
    ]
    protocol = f"{result['protocol'].rstrip('. ')}. {_circumstances(result)}"
    measured = f'??? note "How it was measured"\n\n    {protocol[0].upper()}{protocol[1:]}'
    return "\n\n".join([f"### {result['case']}", *images, _figures(result), measured])


def render_gallery(root: Path) -> str:
    """The gallery page: every file of `models/` and `guides/` with its docstring's first paragraph.

    Each has its picture, small in the table and with the caption that
    `tools/make_gallery_pictures.py` wrote below it; those that have none yet go without.

    Args:
        root: The repository.

    Returns:
        A Markdown page.
    """
    parts = [
        "# Gallery",
        "Files to copy and start from. They are not part of the installed package; a test builds "
        "and runs each of them.",
        "The pictures are made by `tools/make_gallery_pictures.py`, which trains every file "
        "shortly, with one seed: they show what it does, and are no benchmark.",
    ]
    for folder, title in (("models", "Models"), ("guides", "Guides")):
        files = sorted((root / folder).glob("*.py"))
        captions = _captions(root, files)
        rows = [
            [
                _thumbnail(path) if path in captions else "",
                f"`{folder}/{path.name}`<br>{_first_paragraph(path)}",
            ]
            for path in files
        ]
        headings = ["picture", "file, and what it is"]
        parts += [f"## {title}", table(headings, rows or [["", "none yet"]])]
        parts += [
            f"### `{folder}/{path.name}`\n\n{_picture(path)}\n\n{caption}"
            for path, caption in captions.items()
        ]
    return "\n\n".join(parts) + "\n"


def outputs(root: Path) -> dict[Path, str]:
    """Everything that this script writes.

    Args:
        root: The repository.

    Returns:
        The text that each file should have.

    Raises:
        ValueError: The README or the page on scaling has no results block.
    """
    folder = root / "benchmarks" / "results"
    results = load_results(folder)
    readme, scaling = root / "README.md", root / "docs" / "scaling.md"
    written = {
        readme: _with_block(readme, render_readme(results.values())),
        root / "docs" / "benchmarks.md": render_benchmarks(results),
        root / "docs" / "gallery.md": render_gallery(root),
    }
    if scaling.exists():
        written[scaling] = _with_block(scaling, render_scaling(folder))
    return written


def _with_block(page: Path, content: str) -> str:
    """The page with other content between its two marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page.name} needs a block between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the tables.

    Args:
        arguments: Command line; the process's own when None.

    Returns:
        Exit status: 1 when `--check` found a file out of date.
    """
    parser = argparse.ArgumentParser(description="Write the documentation's tables.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    check = parser.parse_args(arguments).check
    stale = {
        path: text
        for path, text in outputs(ROOT).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


def _figures(result: Result, *, brief: bool = False) -> str:
    """The table of a case; brief: with medians alone, without some columns."""
    rows: list[Mapping[str, Any]] = list(result["rows"])
    present = {key for row in rows for key in row} - {"seeds"}
    if brief:
        chosen = result.get("readme", True)
        present &= set(chosen) if isinstance(chosen, list) else present - set(LEFT_OUT_OF_README)
    keys = [key for key in HEADINGS if key in present] + sorted(present - set(HEADINGS))
    return table(
        [HEADINGS.get(key, key.replace("_", " ")) for key in keys],
        [[_cell(row.get(key), brief) for key in keys] for row in rows],
    )


def _circumstances(result: Result) -> str:
    return f"{_seeds(result['rows'])}Measured on: {result['device']}."


def _seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    seeds = sorted({seed for row in rows for seed in row.get("seeds", [])})
    return f"Seeds: {', '.join(map(str, seeds))}. " if seeds else ""


def _cell(value: object, brief: bool = False) -> str:
    if isinstance(value, Mapping):
        low, middle, high = (_cell(value.get(key)) for key in ("min", "median", "max"))
        return middle if brief or low == middle == high else f"{middle} ({low} - {high})"
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)


def _captions(root: Path, files: Sequence[Path]) -> dict[Path, str]:
    """The captions of those files that have a picture."""
    known = root / "docs" / "images" / "gallery" / "captions.json"
    captions = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    return {path: captions[path.stem] for path in files if path.stem in captions}


def _picture(path: Path) -> str:
    return f"![{path.stem}](images/gallery/{path.stem}.png)"


def _thumbnail(path: Path) -> str:
    """The picture, small, which leads to the large one: to the anchor of its heading."""
    anchor = re.sub(r"[^\w-]", "", f"{path.parent.name}{path.name}")
    return f"[{_picture(path)}{{ width={THUMBNAIL} }}](#{anchor})"


def _first_paragraph(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


if __name__ == "__main__":
    raise SystemExit(main())
