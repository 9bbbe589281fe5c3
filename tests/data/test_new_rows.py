"""New rows: read as the training's data were, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pyro_turbovbi.data import DataForm, image_folder
from pyro_turbovbi.data.new_rows import read_rows
from pyro_turbovbi.errors import InvalidDataError, ShapeError, StorageError
from tests.cli.helpers import write_images

TABLE = DataForm(
    shape=(2,),
    columns=("a", "b"),
    input_mean=torch.tensor([1.0, 10.0]),
    input_scale=torch.tensor([2.0, 5.0]),
    target="y",
)


def test_columns_are_found_by_name_and_scaled(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("b,id,a\n20,x,3\n5,y,1\n")
    when = pa.array([0, 1], pa.timestamp("s"))
    pq.write_table(pa.table({"b": [20, 5], "when": when, "a": [3, 1]}), tmp_path / "new.parquet")
    np.savez(tmp_path / "new.npz", x=np.array([[3, 20], [1, 5]]))
    for name in ("new.csv", "new.parquet", "new.npz"):
        names, x = read_rows(tmp_path / name, TABLE)
        assert list(names) == [1, 2]
        assert x.tolist() == [[1.0, 2.0], [0.0, -1.0]]


BAD = {
    "missing": ("new.csv", "a,y\n1,2\n", "{0} has no column 'b'; given: a, y; accepted: a table"),
    "misnamed": ("new.csv", "a,bb\n1,2\n", "{0} has no column 'b' (is it 'bb'?); given: a, bb;"),
    "twice": ("new.csv", "a,b,a\n1,2,3\n", "{0} names a column twice; given: ['a', 'b', 'a']"),
    "NaN": ("new.csv", "a,b\n1,nan\n", "{0}, line 2, column 'b' holds no finite number; given"),
    "no rows": ("new.csv", "a,b\n", "{0} is no table; given: 1 lines; accepted: a header and r"),
    "another kind": ("new.txt", "", "rows are not read from such a file; given: {0}; accepted:"),
    "an image": ("new.png", "", "the data that were trained on are no images; given: {0}; accep"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=list(BAD))
def test_bad_tables(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InvalidDataError) as caught:
        read_rows(path, TABLE)
    assert str(caught.value).startswith(message.format(path))


def test_bad_arrays(tmp_path: Path) -> None:
    path = tmp_path / "new.npz"
    np.savez(path, x=np.array([[0.0, 1.0], [np.nan, 1.0]]))
    with pytest.raises(InvalidDataError, match=r"new.npz, row 2 of x holds a value that is not fi"):
        read_rows(path, TABLE)
    np.savez(path, x=np.zeros((4, 3)))
    with pytest.raises(ShapeError, match=r"given: \(4, 3\); accepted: \(rows, 2\)"):
        read_rows(path, TABLE)
    np.savez(path, x=np.zeros((0, 2)))
    with pytest.raises(InvalidDataError, match=r"x of .*new.npz has no rows; given: \(0, 2\)"):
        read_rows(path, TABLE)
    np.savez(path, y=np.zeros(4))
    with pytest.raises(InvalidDataError, match=r"has no array 'x'; given: \['y'\]; accepted: x$"):
        read_rows(path, TABLE)
    with pytest.raises(InvalidDataError, match=r"no names of columns; given: .*; accepted: a .npz"):
        read_rows(tmp_path / "new.csv", DataForm(shape=(2,)))


def test_images_alone_in_a_folder_and_in_folders_below_it(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    write_images(tmp_path / "pictures", each=3)
    splits = image_folder(tmp_path / "pictures", validation=0.0, test=0.0)
    form = DataForm.of(splits)
    assert (form.classes, form.pixels, form.shape) == (("dark", "light"), True, (3, 4, 4))
    names, x = read_rows(tmp_path / "pictures", form)
    assert names[:4] == ["dark/0.png", "dark/1.png", "dark/2.png", "light/0.png"]
    assert torch.equal(x.sum((1, 2, 3)).sort().values, splits.train.x.sum((1, 2, 3)).sort().values)
    one = read_rows(tmp_path / "pictures/dark/1.png", form)
    assert one.names == ["1.png"]
    assert torch.equal(one.x[0], x[1])
    assert len(read_rows(tmp_path / "pictures/dark", form).x) == 3
    large = tmp_path / "large.png"
    image.new("L", (5, 3), 9).save(large)
    with pytest.raises(InvalidDataError) as caught:
        read_rows(large, form)
    assert str(caught.value) == (
        f"{large} has another size than the images that were trained on; given: 3x5; accepted: "
        "4x4, height and width"
    )
    assert read_rows(large, form, resize=True).x.shape == (1, 3, 4, 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidDataError, match="empty has no images; accepted: files ending in "):
        read_rows(tmp_path / "empty", form)
    with pytest.raises((StorageError, InvalidDataError), match=r"gone.png"):
        read_rows(tmp_path / "gone.png", form)
