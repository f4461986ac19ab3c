"""Predictions, what is remembered of them, and the choice between quantisations."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from localllm.compress.mixes import mix_named
from localllm.errors import LocalLLMError
from localllm.evaluate import fit
from localllm.evaluate.choice import (
    MOST_LOST,
    Option,
    frontier,
    recommend_measured,
    recommend_predicted,
)
from localllm.evaluate.fit import Part, extrapolated, model_of, predict
from localllm.evaluate.history import History, Subject
from localllm.evaluate.scatter import svg_scatter
from localllm.evaluate.speed import PREFILL, SPREAD, Figures, unsteady
from localllm.evaluate.synthetic import catalog_model, catalog_outline
from localllm.gguf import GGUFFile
from localllm.hub.catalog import CatalogModel, Shape, load_catalog

SHAPE = Shape(layers=12, width=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=512, tied=True)
ENTRY = CatalogModel("small", "a/b", "Q8_0", "llama", SHAPE.parameters, 512, "mit", 1, SHAPE)


def linear(layers: int, bytes: int) -> Figures:
    """What a machine does whose costs are linear."""
    return {
        "prefill_tokens_per_second": PREFILL / (0.5 + 0.01 * layers),
        "decode_tokens_per_second": 1 / (0.02 + 1e-9 * bytes),
        "first_token_seconds": 0.4 + 1e-10 * bytes,
        "peak_memory_bytes": 90e6 + 1.02 * bytes,
    }


def test_what_is_linear_is_predicted_exactly() -> None:
    parts = [Part(n, n * 10**8, linear(n, n * 10**8)) for n in (1, 10)]
    assert extrapolated(*parts, 32, 40 * 10**8) == pytest.approx(linear(32, 40 * 10**8))


def test_a_part_that_was_slower_by_chance_does_not_make_the_whole_faster() -> None:
    small = Part(1, 10**8, linear(5, 5 * 10**8))
    large = Part(2, 2 * 10**8, linear(2, 2 * 10**8))
    assert extrapolated(small, large, 32, 10**10) == pytest.approx(large.figures)


def test_a_large_model_is_predicted_from_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, int]] = []

    def measure(path: Path, *_: object, **__: object) -> Figures:
        file = GGUFFile.open(path)
        layers = file.get("llama.block_count", int)
        size = sum(t.nbytes for name, t in file.tensors.items() if name.startswith("blk."))
        measured.append((layers, size))
        kinds = {t.type.name for t in file.tensors.values()}
        assert layers == 1 or {"Q4_K", "Q6_K"} <= kinds
        return linear(layers, size) | {SPREAD: 0.01 * layers}

    monkeypatch.setattr(fit, "measure_speed", measure)
    mix = mix_named("Q4_K_M")
    found = predict(ENTRY, mix, None, lambda text: None, enough=1 << 20)
    assert found.layers == tuple(layers for layers, _ in measured)
    assert found.layers[0] == 1 < found.layers[1] < 12
    assert found.spread == 0.01 * found.layers[1]

    whole = predict(ENTRY, mix, None, lambda text: None)
    assert whole.layers == (12,)
    assert found.figures == pytest.approx(whole.figures)
    assert found.file_bytes == whole.file_bytes > measured[-1][1]


def test_unsteady_speeds_are_said() -> None:
    assert unsteady([0.0, 0.29]) == unsteady([]) == ""
    assert "by up to 45%" in unsteady([0.1, 0.45])


def test_no_room_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(fit, "catalog_model", lambda *_: pytest.fail("was made"))
    with pytest.raises(LocalLLMError, match=r"not enough room in .*TMPDIR"):
        predict(ENTRY, mix_named("Q8_0"), None, lambda text: None)


def test_a_machine_without_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    with pytest.raises(LocalLLMError, match=r"No usable temporary directory .*TMPDIR"):
        predict(ENTRY, mix_named("Q8_0"), None, lambda text: None)


@pytest.mark.parametrize("alias", ["llama-3.2-1b", "qwen3-0.6b", "gemma-3-1b", "phi-3.5-mini"])
def test_an_outline_is_what_would_be_written(alias: str, tmp_path: Path) -> None:
    catalog = load_catalog()
    if alias not in catalog:
        pytest.skip(f"{alias} is not in the catalog")
    shape = replace(
        catalog[alias].shape, layers=2, width=256, heads=4, kv_heads=2, ffn=256, vocab=512
    )
    entry = replace(catalog[alias], shape=replace(shape, head_dim=64))
    outline = catalog_outline(entry)
    file = GGUFFile.open(catalog_model(tmp_path / "m.gguf", entry, {"*": "F16"}))
    assert {name: (t.type, t.shape) for name, t in outline.tensors.items()} == {
        name: (t.type, t.shape) for name, t in file.tensors.items()
    }
    assert outline.get("general.architecture", str) == entry.architecture
    again = model_of(file, entry.alias)
    assert again.shape == entry.shape
    assert again.architecture == entry.architecture


# ---- what is remembered ----


def subject(quantisation: str, machine: str = "here") -> Subject:
    return Subject(machine, "llama", SHAPE, quantisation)


def test_corrections_are_learned_for_each_machine(tmp_path: Path) -> None:
    path = tmp_path / "state" / "fit.json"
    raw = linear(12, 10**8)
    history = History(path)
    assert history.predict(subject("Q8_0"), raw) == raw
    slower = raw | {"decode_tokens_per_second": 0.8 * raw["decode_tokens_per_second"]}
    history.measure(subject("Q8_0"), slower)

    again = History(path)
    assert again.measured(subject("Q8_0")) == slower
    assert again.predicted(subject("Q8_0")) == raw
    corrected = again.predict(subject("Q4_0"), raw)
    assert corrected == pytest.approx(slower)
    assert again.predict(subject("Q4_0", "elsewhere"), raw) == raw
    # What was corrected before it was said is held against what it was before: nothing adds up.
    again.measure(subject("Q4_0"), slower)
    assert again.correction("here")["decode_tokens_per_second"] == pytest.approx(0.8)


def test_a_correction_has_bounds(tmp_path: Path) -> None:
    history = History(tmp_path / "fit.json")
    raw = linear(12, 10**8)
    history.predict(subject("Q8_0"), raw)
    history.measure(subject("Q8_0"), {name: 100 * value for name, value in raw.items()})
    assert set(history.correction("here").values()) == {2.0}


def test_a_measurement_alone_corrects_nothing(tmp_path: Path) -> None:
    history = History(tmp_path / "fit.json")
    history.measure(subject("Q8_0"), linear(12, 10**8))
    assert history.predicted(subject("Q8_0")) is None
    assert set(history.correction("here").values()) == {1.0}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "not json",
        '{"a": 1}',
        '{"a": {"machine": "here", "raw": [1], "measured": {}}}',
        '{"a": {"machine": "here", "raw": {"x": "y"}, "measured": {"x": 1}}}',
        "[" * 10_000,
    ],
)
def test_a_damaged_file_counts_as_none(content: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    path.write_text(content)
    history = History(path)
    raw = linear(12, 10**8)
    assert history.predict(subject("Q8_0"), raw) == raw
    assert list(json.loads(path.read_text())) == [subject("Q8_0").key]


def test_what_another_process_remembers_stays(tmp_path: Path) -> None:
    one, other = History(tmp_path / "fit.json"), History(tmp_path / "fit.json")
    raw = linear(12, 10**8)
    one.measure(subject("Q8_0"), raw)
    other.predict(subject("Q8_0"), raw)
    other.measure(subject("Q6_K"), raw)
    one.measure(subject("Q4_0"), raw)
    found = History(tmp_path / "fit.json")
    assert found.predicted(subject("Q8_0")) == found.measured(subject("Q8_0")) == raw
    assert found.measured(subject("Q6_K")) == found.measured(subject("Q4_0")) == raw


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file" / "fit.json")
    raw = linear(12, 10**8)
    assert history.predict(subject("Q8_0"), raw) == raw


# ---- the choice ----

F16 = Option("F16", 1000, 10, 1000)
Q8 = Option("Q8_0", 500, 20, 500, 0.001)
Q6 = Option("Q6_K", 420, 18, 420, 0.004)
Q4 = Option("Q4_K_M", 300, 30, 300, 0.03)
Q2 = Option("Q2_K", 200, 40, 200, 0.4)
ALL = [Q2, F16, Q6, Q8, Q4]


def test_on_the_frontier_none_is_closer_and_faster() -> None:
    assert frontier(ALL) == [F16, Q8, Q4, Q2]
    for option in frontier(ALL):
        better = [o for o in ALL if o.decode >= option.decode and o is not option]
        assert all((o.lost or 0) > (option.lost or 0) for o in better)


def test_the_fastest_that_loses_little_is_recommended() -> None:
    found = recommend_measured(ALL, 2000)
    assert found.name == "Q4_K_M"
    assert "Q8_0, the next better one, is 33% slower" in found.reason
    assert (Q4.lost or 0) <= MOST_LOST < (Q2.lost or 0)


def test_what_does_not_fit_is_not_recommended() -> None:
    assert recommend_measured(ALL, 250).name == "Q2_K"
    assert "comes closest" in recommend_measured(ALL, 250).reason
    assert recommend_measured(ALL, 100).name is None
    assert "a smaller model would" in recommend_measured(ALL, 100).reason


def test_before_it_is_here_the_largest_that_is_quick_is_recommended() -> None:
    assert recommend_predicted(ALL, 2000).name == "F16"
    assert recommend_predicted(ALL, 450).name == "Q6_K"
    slow = [replace(option, decode=option.decode / 10) for option in ALL]
    assert recommend_predicted(slow, 2000).name == "Q2_K"
    assert recommend_predicted(ALL, 100).name is None


@pytest.mark.parametrize("options", [ALL, [F16], [Q4], [replace(Q8, lost=0.0), F16]])
def test_the_picture_has_a_point_for_each(options: list[Option]) -> None:
    svg = ElementTree.fromstring(svg_scatter(options, "a <title> & more", options[0].name))
    space = "{http://www.w3.org/2000/svg}"
    points = svg.findall(f"{space}circle")
    assert len(points) == len(options)
    for point in points:
        assert 0 <= float(point.attrib["cx"]) <= 760
        assert 0 <= float(point.attrib["cy"]) <= 460
    texts = [text.text for text in svg.findall(f"{space}text")]
    assert {"a <title> & more", *(option.name for option in options)} <= set(texts)
    line = svg.find(f"{space}polyline")
    assert line is not None
    assert len(line.attrib["points"].split()) == len(frontier(options))
