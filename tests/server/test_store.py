import json
import os

import numpy as np
import pytest

from fedhealth.core.errors import IntegrityError, SettingError
from fedhealth.server.store import Checkpoint, Store


def checkpoint(round_: int) -> Checkpoint:
    model = {"w": np.arange(4, dtype=np.float32) + round_}
    return Checkpoint(round_, model, {"m_t/w": np.ones(4)}, {"history": [{"round": round_}]})


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path)
    store.save(checkpoint(1))
    store.save(checkpoint(2))
    found = store.load()
    assert (found.round_, store.rounds(), found.state) == (2, [1, 2], {"history": [{"round": 2}]})
    np.testing.assert_array_equal(found.model["w"], checkpoint(2).model["w"])
    np.testing.assert_array_equal(store.load(1).model["w"], checkpoint(1).model["w"])


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert Store(tmp_path).load() is None


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    store = Store(tmp_path)
    store.save(checkpoint(1))
    draft = tmp_path / "checkpoints" / ".00002"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"half")
    assert store.load().round_ == 1
    store.save(checkpoint(2))
    assert store.load().round_ == 2


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("model.safetensors", b"\x40", b"\x41"),
        ("strategy.safetensors", b"\x3f", b"\x3e"),
        ("state.json", b'[{"round": 1', b'[{"round": 2'),
    ],
)
def test_a_changed_byte_is_found(tmp_path, name, old, new):
    store = Store(tmp_path)
    store.save(checkpoint(1))
    path = tmp_path / "checkpoints" / "00001" / name
    content = path.read_bytes()
    path.write_bytes(content.replace(old, new))
    assert path.read_bytes() != content
    with pytest.raises(IntegrityError, match="another SHA-256"):
        store.load()


def test_what_is_not_named_like_a_round_is_no_checkpoint(tmp_path):
    store = Store(tmp_path)
    store.save(checkpoint(1))
    (tmp_path / "checkpoints" / "00002.old").mkdir()
    assert store.rounds() == [1]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.unlink(),
        lambda p: p.write_text("{"),
        lambda p: p.write_text("{}"),
        lambda p: p.write_text("[]"),
        lambda p: p.write_text("[" * 100_000),
        lambda p: p.write_bytes(b"\xff"),
    ],
)
def test_a_broken_state_is_an_integrity_failure(tmp_path, spoil):
    store = Store(tmp_path)
    store.save(checkpoint(1))
    spoil(tmp_path / "checkpoints" / "00001" / "state.json")
    with pytest.raises(IntegrityError, match="must hold a whole checkpoint"):
        store.load()


@pytest.mark.process
def test_on_a_full_disk_the_checkpoint_before_survives(tmp_path):
    # A limit on the size of a file is the kernel's own refusal, as a full disk's is.
    import subprocess
    import sys

    code = (
        "import resource, sys, numpy as np, pathlib\n"
        "from fedhealth.server.store import Checkpoint, Store\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "store.save(Checkpoint(1, {'w': np.zeros(4)}, {}, {}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "store.save(Checkpoint(2, {'w': np.zeros(100_000)}, {}, {}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "OSError: [Errno 27]" in ended.stderr
    assert Store(tmp_path).load().round_ == 1


def test_all_of_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, rename, fsync = set(), os.rename, os.fsync

    def noting(handle):
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def renaming(old, new):
        parts = [old, *old.iterdir()]
        assert len(parts) == 4
        assert [part.name for part in parts if part.stat().st_ino not in synced] == []
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "rename", renaming)
    Store(tmp_path).save(checkpoint(1))
    assert (tmp_path / "checkpoints").stat().st_ino in synced


def test_json_is_never_written_with_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Store(tmp_path).write_json("x.json", {"a": float("nan")})


def test_a_document_comes_back_without_its_hash(tmp_path):
    store = Store(tmp_path)
    store.write_json("x.json", {"a": [1, 2.5, None, "ü"]})
    assert store.read_json("x.json") == {"a": [1, 2.5, None, "ü"]}
    assert len(json.loads((tmp_path / "x.json").read_text())["sha256"]) == 64


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"a": 1, "sha256": 0}', '{"a": NaN, "sha256": ""}', "[" * 100_000]
)
def test_a_document_that_was_not_written_so_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"x\.json must be as it was written, found something else\. Put it back"):
        Store(tmp_path).read_json("x.json")


def test_a_config_comes_back_as_it_was(tmp_path):
    config = {"b": 1e-05, "a": {"words": ["1e-5", "2020-01-01", "no", "ü", ""], "none": None}}
    Store(tmp_path).write_config(config)
    assert Store(tmp_path).read_config() == config


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [", "a: 2020-01-01\n", "a: &a [*a]\n", "a: 2\n", f"a: {'[' * 2000}"])
def test_a_config_that_was_not_written_so_is_refused(tmp_path, text):
    store = Store(tmp_path)
    store.write_config({"a": 1})
    first = (tmp_path / "config.yaml").read_text().splitlines()[0]
    (tmp_path / "config.yaml").write_text(f"{first}\n{text}")
    with pytest.raises(IntegrityError, match=r"config\.yaml must be as it was written, found something else"):
        store.read_config()


def test_going_on_takes_the_manifest_of_the_ended_run_away(tmp_path):
    store = Store(tmp_path)
    store.write_json("manifest.json", {"files": {}})
    store.save(checkpoint(1))
    with pytest.raises(SettingError, match="must hold manifest.json, found none"):
        store.read_manifest()


def test_history_is_a_line_a_round(tmp_path):
    Store(tmp_path).write_history([{"round": 1}, {"round": 2}])
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"round": 1},
        {"round": 2},
    ]
