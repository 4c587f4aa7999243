"""What is found odd about files, what is done about it, and which files are the same."""

import numpy as np
import pytest
from cases import ODD, Case, found, jpeg, part

from carcls.data import audit, photos
from carcls.data.pixels import read_photo
from carcls.errors import InputError


def test_odd_files_are_found_and_said_what_is_done(tmp_path):
    test = {name: data for name, (data, _, _) in ODD.items()}
    train = {f"train {name}": (k % 2, data) for k, (name, data) in enumerate(test.items())}
    table = Case(tmp_path, train, test).load()
    rows = table.audit[~table.audit["finding"].str.startswith("duplicate")]
    readable = part(table, photos.TEST).set_index("id")["readable"]
    for name, (_, finding, _) in ODD.items():
        assert rows.loc[rows["id"].eq(name), "finding"].tolist() == [finding] * bool(finding), name
        of_train = rows.loc[rows["id"].eq(f"train {name}"), "finding"].tolist()
        assert of_train == [finding] * bool(finding), name
        lost = finding in ("truncated", "unreadable")
        assert (f"train {name}" in set(table.frame["id"])) != lost, name
        assert readable[name] == (finding != "unreadable"), name
    actions = set(rows[["source", "finding", "action"]].itertuples(index=False, name=None))
    assert actions >= {
        ("train", "truncated", "dropped"),
        ("test", "truncated", "decoded as far as it goes"),
        ("test", "unreadable", "predicted from a grey photo"),
        ("test", "EXIF-rotated", "turned upright"),
    }
    size = part(table, photos.TEST).set_index("id").loc["turned.jpg"]
    assert (size["height"], size["width"]) == (64, 48)
    lines = photos.summary(table)
    assert "audit: 6 train unreadable → dropped" in lines and "WARNING: 6 test photos" in lines[-1]


def test_duplicates(tmp_path):
    train = {"same.jpg": (0, jpeg(100)), "clash.jpg": (1, jpeg(101)), "twin.jpg": (1, jpeg(200))}
    test = {"900.jpg": jpeg(102), "901.jpg": jpeg(901), "902.jpg": jpeg(901), "a": b"", "b": b""}
    table = Case(tmp_path, train, test).load()
    assert sorted(row for row in found(table) if row[2] != "unreadable") == [
        ("test", "900.jpg", "duplicate of a train photo", "kept"),
        ("test", "902.jpg", "duplicate", "kept"),
        ("train", "101.jpg", "duplicate with another label", "dropped"),
        ("train", "clash.jpg", "duplicate with another label", "dropped"),
        ("train", "same.jpg", "duplicate", "on the same side of the split"),
        ("train", "twin.jpg", "duplicate", "on the same side of the split"),
    ]
    assert not {"101.jpg", "clash.jpg"} & set(table.frame["id"])
    detail = table.audit.set_index("id")["detail"]
    assert detail["900.jpg"] == "same as 102.jpg, label 0"
    assert detail["same.jpg"] == "same as 100.jpg"


def test_damaged_files_never_end_in_a_traceback(tmp_path):
    path = tmp_path / "a.jpg"
    whole = [data for data, _, _ in ODD.values() if data]
    for seed in range(8 * len(whole)):
        rng = np.random.default_rng(seed)
        data = bytearray(whole[seed % len(whole)])
        for _ in range(rng.integers(1, 20)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if seed % 16 == 0 else data)
        facts = audit.look([str(path)])[str(path)]
        if facts.readable:  # what the audit lets through can be read, and has the size it says
            assert read_photo(path).shape == (facts.height, facts.width, 3)
        else:
            with pytest.raises(InputError, match=r"a\.jpg"):
                read_photo(path)
