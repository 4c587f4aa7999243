"""The car in each photo: what a map's box is, that cars are found, and the command."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import write_photo

from carcls.data import boxes, photos
from carcls.desk import cars, cli, detect, sample, scenes
from carcls.errors import InputError

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos640"


def background(rng: np.random.Generator) -> np.ndarray:
    """A drawn scene without a car (480, 640, 3) uint8 RGB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cars, "draw", lambda *_: None)
        shot = scenes.Shot(cars.MODELS[0], str(rng.choice(list(scenes.SCENES))))
        return scenes.photo(shot, rng)[..., ::-1].copy()


def with_car(
    photo: np.ndarray, car: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The scene with the photo of a car on it, and where it is."""
    photo = photo.copy()
    scale = min(rng.uniform(0.4, 0.85) * 640 / car.shape[1], 440 / car.shape[0])
    car = cv2.resize(car, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = car.shape[:2]
    top, left = rng.integers(0, 480 - height + 1), rng.integers(0, 640 - width + 1)
    photo[top : top + height, left : left + width] = car
    return photo, (left, top, left + width, top + height)


def overlap(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4), (N, 4) → (N,) intersection over union, (N,) share of the true box that is inside."""
    sides = np.minimum(found[:, 2:], true[:, 2:]) - np.maximum(found[:, :2], true[:, :2])
    common, area = sides.clip(0).prod(1), lambda box: (box[:, 2:] - box[:, :2]).prod(1)
    return common / (area(found) + area(true) - common), common / area(true)


@pytest.fixture(scope="module")
def detector() -> detect.Detector:
    return detect.Detector("efficientnet_lite_b0")


def test_cars_are_found_in_scenes(detector):
    """Photos of cars on drawn backgrounds, every third one of them.

    With CARCLS_SLOW=1 all of them, and -s prints other sizes and shares.
    """
    if not PHOTOS.is_dir():
        pytest.skip("photos640 is not beside the repository")
    rng, slow = np.random.default_rng(0), bool(os.environ.get("CARCLS_SLOW"))
    paths = sorted(PHOTOS.glob("*.jpg"))[:: 1 if slow else 3]
    cars = [cv2.imread(str(path))[..., ::-1] for path in paths]
    empty = [background(rng) for _ in range(32 if slow else 8)]  # drawing them takes most of it
    made, true = zip(
        *(with_car(empty[n % len(empty)], car, rng) for n, car in enumerate(cars)), strict=True
    )
    sure = [detector(photo[None])[0][1] for photo in empty]
    assert np.mean(np.array(sure) < detect.LEAST) > 0.95

    for long in (512, 640, 768) if slow else (detect.LONG,):
        size = (round(long * 0.75 / detect.STRIDE) * detect.STRIDE, long)
        images = np.stack(
            [cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA) for photo in made]
        )
        for share in (0.15, 0.2, 0.25, 0.3) if slow else (detect.SHARE,):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(detect.box_of, "__defaults__", (share,))
                found = [
                    each for at in range(0, len(made), 8) for each in detector(images[at : at + 8])
                ]
            place = np.stack([box for box, _ in found]) * np.tile([640 / size[1], 480 / size[0]], 2)
            union, inside = overlap(place, np.array(true, float))
            print(
                f"{long} px, share {share}: overlap {union.mean():.3f}, "
                f"{inside.mean():.3f} of the car inside"
            )
            if (long, share) == (detect.LONG, detect.SHARE):
                assert min(each[1] for each in found) > detect.LEAST
                assert union.mean() > 0.7 and inside.mean() > 0.95
                assert np.percentile(inside, 10) > 0.9


def test_the_box_of_a_map():
    evidence = np.full((6, 8), -1.0)
    evidence[1:3, 5:7] = 1.0
    evidence[2, 0] = 0.9  # far away; below a tenth of the other's area it would not count
    left, top, right, bottom = detect.box_of(evidence, (60, 80))
    assert 0 <= left < 5 and 5 < top < 15 and 65 < right < 75 and 25 < bottom < 35
    evidence[2, 0] = -1.0
    left, top, right, bottom = detect.box_of(evidence, (60, 80))
    assert 45 < left < 55 and 5 < top < 15 and 65 < right < 75 and 25 < bottom < 35  # asymmetric
    evidence[5, 0] = 0.0
    assert detect.box_of(evidence, (60, 80)).tolist() == [left, top, right, bottom]
    assert detect.box_of(-np.ones((6, 8)), (60, 80)).tolist() == [0, 0, 80, 60]


def test_rows_keep_their_order_and_px_are_those_of_each_photo(tmp_path, monkeypatch):
    """Photos of several shapes, one that cannot be read, and one without a car."""

    class Whole:
        def __init__(self, name):
            pass

        def __call__(self, images):
            height, width = images.shape[1:3]
            assert height % detect.STRIDE == width % detect.STRIDE == 0
            return [
                (np.array([0, 0.5 * height, width, height]), 0.9 if image.mean() > 60 else 0.3)
                for image in images
            ]

    monkeypatch.setattr(detect, "Detector", Whole)
    shapes = [(90, 160), (160, 90), (90, 160), (300, 400)] + [(90, 160)] * 9
    rows = []
    for n, shape in enumerate(shapes):
        photo = np.full((*shape, 3), 0 if n == 2 else 200, np.uint8)
        path = write_photo(tmp_path / f"{n}.png", photo)
        rows.append(("train", f"{n}.png", str(path), *shape, n != 1))
    columns = ["source", "id", "path", "height", "width", "readable"]
    found = detect.detect(pd.DataFrame(rows, columns=columns), "any")
    assert found["id"].tolist() == [f"{n}.png" for n in range(13)]
    assert found[boxes.SIDES].isna().all(axis=1).tolist() == [n in (1, 2) for n in range(13)]
    assert found.loc[[0, 3, 12], boxes.SIDES].to_numpy().tolist() == [
        [0, 45, 160, 90],
        [0, 150, 400, 300],
        [0, 45, 160, 90],
    ]
    assert found["score"].isna().tolist() == [n == 1 for n in range(13)]


def test_the_command_makes_what_a_run_takes(tmp_path, capsys):  # S12
    folder = sample.draw(tmp_path / "drawn", train=20, test=2)
    words = ["boxes", "--data", str(folder), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    made = tmp_path / "out" / "boxes_efficientnet_lite_b0.csv"
    assert f"next       boxes={made} among the settings of a run" in said
    rows = pd.read_csv(made, dtype={"id": str})
    assert rows["source"].value_counts().to_dict() == {"train": 20, "test": 2}
    assert boxes.read(made).rows["left"].notna().sum() >= 20  # of drawn cars
    assert cv2.imread(str(tmp_path / "out" / "boxes.png")) is not None

    # Sorted and written anew in a spreadsheet, and corrected: it stays, and is what a run gets.
    mended = rows.rename(columns={"source": "Source", "id": "Id"})
    mended = mended.sort_values("Id", ascending=False)
    mended["Source"] = " " + mended["Source"].str.title()
    mended.iloc[0, 2:] = [1, 2, 300, 200, 1.0]
    mended.to_csv(made, index=False)
    assert cli.main(words) == 0
    assert f"{made}: is there already and stays" in capsys.readouterr().out
    assert len(pd.read_csv(made)) == 22 and pd.read_csv(made)["right"].iloc[0] == 300
    other = mended["Id"].replace(mended["Id"].iloc[1], "other.jpg")
    mended.iloc[1:].assign(Id=other).to_csv(made, index=False)
    assert cli.main(words) == 2
    assert "has 1 photos that are not here, and lacks 2 that are" in capsys.readouterr().err

    mended.assign(source="train").to_csv(made, index=False)
    assert cli.main(words) == 2
    assert "columns Source, Id, left, top" in capsys.readouterr().err

    assert cli.main([*words, "--network", "efficientnet_lite_b7"]) == 2
    assert "weights efficientnet_lite_b7: no package has them" in capsys.readouterr().err


def test_a_network_that_finds_no_car_is_left_out(tmp_path, monkeypatch, capsys):
    frame = pd.DataFrame({"source": "train", "id": ["1", "2"]})
    found = {"one": [[1, 2, 30, 40, 0.9], [None] * 4 + [0.1]], "two": [[None] * 4 + [0.1]] * 2}

    def detected(frame, name):
        columns = zip([*boxes.SIDES, "score"], zip(*found[name], strict=True), strict=True)
        return frame.assign(**dict(columns))

    monkeypatch.setattr(detect, "detect", detected)
    assert detect.make(frame, ["one", "two"], tmp_path) == [tmp_path / "boxes_one.csv"]
    assert "boxes_two.csv: no car found in any of 2 photos" in capsys.readouterr().out
    with pytest.raises(InputError, match="two found no car in any of 2 photos"):
        detect.make(frame, ["two"], tmp_path)


def test_a_package_that_is_not_there_is_missed_before_the_photos_are_looked_at(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(photos, "load", lambda *_: pytest.fail("too late"))
    networks = ["--network", "efficientnet_lite_b0", "--network", "resnet50_v2"]
    assert (
        cli.main(["boxes", "--data", str(tmp_path), "--out", str(tmp_path / "out"), *networks]) == 2
    )
    assert "resnet50_v2: no package has them" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
