"""Checkpoints are read without unpickling: the tensors are those of PyTorch's own loader, and code is never run."""

import collections
import io
import pickle
import random
import struct
import time
import zipfile

import pytest
import torch

from unet_motion.files.reading import open_tensors
from unet_motion.formats import FileFormatError, UnsafeFileError

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
)


def random_tensor(dice):
    """Any dtype, dense or a view with an offset and strides of its own, also empty and without dimensions."""
    shape = [dice.choice((0, 1, 2, 3, 5)) for _ in range(dice.randint(0, 4))]
    dtype = dice.choice(DTYPES)
    tensor = (torch.randn(shape) * 50).to(dtype)
    if tensor.dim() > 1 and dice.random() < 0.4:
        tensor = tensor.transpose(0, -1)
    if tensor.dim() and tensor.shape[0] > 2 and dice.random() < 0.4:
        tensor = tensor[1::2]
    return (
        torch.nn.Parameter(tensor, tensor.is_floating_point() and dice.random() < 0.5)
        if dice.random() < 0.3
        else tensor
    )


def equal(ours, theirs):
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs.detach())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_tensor_is_that_of_torchs_own_loader(tmp_path, zipped, protocol):
    dice = random.Random()
    for turn in range(60):
        torch.manual_seed(dice.randrange(2**31))
        state = collections.OrderedDict((f"a.{i}.weight", random_tensor(dice)) for i in range(dice.randint(1, 6)))
        shared = torch.arange(24.0)
        state |= {"tied": shared, "part": shared[6:18].view(3, 4), "a.0.weight": state["a.0.weight"]}
        state._metadata = {"version": 1}
        content = dice.choice(
            (state, {"state_dict": state, "epoch": 3}, {"model": dict(state), 7: {8: [state["tied"]]}})
        )
        path = tmp_path / f"{turn}.pt"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        expected = torch.load(path, weights_only=protocol == 2)
        expected = expected.get("state_dict", expected.get("model", expected))
        source = open_tensors(path)
        assert source.keys() == list(expected)
        for name, tensor in expected.items():
            assert equal(source.read(name, check=False), tensor), name
            assert (source.infos[name].shape, source.infos[name].dtype) == (tuple(tensor.shape), tensor.dtype)


def test_the_other_byte_order_is_turned(tmp_path):
    torch.save({"a": torch.randn(7), "b": torch.arange(5, dtype=torch.int16)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            content = b"big" if info.filename.endswith("byteorder") else old.read(info)
            new.writestr(info.filename, content)
    expected = torch.load(tmp_path / "b.pt", weights_only=True)
    assert not torch.equal(expected["b"], torch.arange(5, dtype=torch.int16))
    source = open_tensors(tmp_path / "b.pt")
    assert all(equal(source.read(name), tensor) for name, tensor in expected.items())


def test_what_is_read_stays_when_the_source_is_gone_and_is_its_own_memory(tmp_path):
    """Writers ask a tensor for its storage: it must be of the tensor's size, not of the file's."""
    tensor = torch.randn(100, 3)
    torch.save({"a": tensor, "b": torch.zeros(4)}, tmp_path / "a.pt")
    source = open_tensors(tmp_path / "a.pt")
    read = source.read("a")
    del source
    assert torch.equal(read, tensor) and read.untyped_storage().nbytes() == 1200
    read.add_(1)
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["a"], tensor)


def pickled(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def archive(content, method=zipfile.ZIP_STORED, **storages):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("archive/data.pkl", content)
        for key, body in storages.items():
            file.writestr(f"archive/data/{key[1:]}", body)
    return out.getvalue()


DOUBLED = b")" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(41))


def tensor_pickle(shape, stride, count, offset=0):
    def number(value):
        return b"J" + struct.pack("<i", value)

    sizes = b"(" + b"".join(map(number, shape)) + b"t(" + b"".join(map(number, stride)) + b"t"
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + number(count) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + b"\x89N" + b"tR"
    return pickled(b"}X\1\0\0\0a", rebuilt, b"s")


NESTED = b"}" + b"".join(
    b"q%c}(" % i + b"".join(b"X\3\0\0\0%03dh%c" % (j, i) for j in range(300)) + b"u" for i in range(6)
)
TWO_SIZES = [b"X\1\0\0\0" + name + tensor_pickle((1,), (1,), n)[9:-2] + b"s" for name, n in ((b"a", 4), (b"b", 5))]
HOSTILE = {
    "a key whose hash takes two to the power of forty steps": (
        pickled(b"}", DOUBLED, b"K\1s"),
        "without tensors|empty",
    ),
    "a byte array of 400 MB": (pickled(b"}X\1\0\0\0ac__builtin__\nbytearray\n(J\0\xca\x9a\x17tRs"), "without tensors"),
    "a tensor of strides 0": (tensor_pickle((10**6, 10**6), (0, 0), 1), "needs more than what is stored"),
    "an offset behind the storage": (tensor_pickle((2,), (1,), 4, 3), "needs more than what is stored"),
    "strides that leave the storage": (tensor_pickle((2, 2), (3, 1), 4), "needs more than what is stored"),
    "one dictionary in another 300 times, six times over": (pickled(NESTED), "without tensors"),
    "two sizes of one storage": (pickled(b"}", *(p for p in TWO_SIZES)), "damaged or truncated"),
    "a storage that is not there": (tensor_pickle((2,), (1,), 10**8), "needs more than what is stored"),
    "a number of 8000 digits": (pickled(b"}\x8b\x00\x10\0\0" + b"\1" * 4096, b"K\1s"), "holds an empty dictionary"),
    "more opcodes than a checkpoint has": (pickled(b"(" + b"N" * 400_000 + b"l"), "more steps than"),
    "nothing on the stack": (pickled(b"0" * 9), "damaged or truncated"),
    "an instance": (pickled(b"(ios\nsystem\n"), r"asks to run or build `os\.system`"),
}


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_pickles(tmp_path, words):
    content, sentence = HOSTILE[words]
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + content
    for raw in (archive(content, _0=bytes(16)), legacy + pickled(b"]")):
        (tmp_path / "a.ckpt").write_bytes(raw)
        if raw.startswith(b"\x80") and "stored" in sentence:
            continue  # of a storage that such a file does not list
        start = time.process_time()
        with pytest.raises(FileFormatError, match=sentence):
            open_tensors(tmp_path / "a.ckpt")
        assert time.process_time() - start < 1


def test_a_view_with_an_offset_of_a_storage_at_an_odd_place_is_read(tmp_path):
    """Before zip archives, storages stand wherever the one before ends: they are copied to where they may be used."""
    state = {"a": torch.arange(3, dtype=torch.uint8), "b": torch.randn(8)[3:6], "c": torch.randn(4).double()}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    source = open_tensors(tmp_path / "a.pt")
    read = {name: source.read(name) for name in state}
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in read.values())
    size = (tmp_path / "a.pt").read_bytes().rindex(struct.pack("<q", 4))
    raw = bytearray((tmp_path / "a.pt").read_bytes())
    raw[size : size + 8] = struct.pack("<q", 5)
    (tmp_path / "a.pt").write_bytes(raw)
    with pytest.raises(FileFormatError, match="a storage of 5 values where its tensor says 4"):
        open_tensors(tmp_path / "a.pt")


def test_entries_of_an_archive_that_lie_over_each_other(tmp_path):
    """Many names for the same bytes would be many times the file's size in memory."""
    raw = bytearray(archive(tensor_pickle((4,), (1,), 4), _0=bytes(16), _1=bytes(10_000)))
    place = raw.rindex(b"PK\1\2")  # the last entry's record: bytes 42 to 46 say where the entry starts
    record = bytes(raw[place : raw.rindex(b"PK\5\6")])
    end = raw.rindex(b"PK\5\6")
    names = b"".join(record[:-1] + bytes([48 + i]) for i in range(2, 8))
    raw[end:end] = names
    tail = raw.rindex(b"PK\5\6")
    for field, more in ((8, 6), (10, 6)):
        count = struct.unpack("<H", raw[tail + field : tail + field + 2])[0]
        raw[tail + field : tail + field + 2] = struct.pack("<H", count + more)
    length = struct.unpack("<I", raw[tail + 12 : tail + 16])[0]
    raw[tail + 12 : tail + 16] = struct.pack("<I", length + len(names))
    (tmp_path / "a.pt").write_bytes(raw)
    with pytest.raises(FileFormatError, match="lies outside the file or over another one"):
        open_tensors(tmp_path / "a.pt")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(archive(tensor_pickle((10**7,), (1,), 10**7), zipfile.ZIP_DEFLATED, _0=bytes(4 * 10**7)))
    with pytest.raises(FileFormatError, match="is compressed or encrypted, expected a checkpoint as PyTorch writes it"):
        open_tensors(path)


def test_tensors_that_show_one_storage_again_and_again_are_refused(tmp_path):
    storage = torch.zeros(1000, 1000)
    torch.save({f"a.{i}": storage for i in range(4)}, tmp_path / "few.pt")
    assert len(open_tensors(tmp_path / "few.pt").keys()) == 4
    torch.save({f"a.{i}": storage for i in range(40)}, tmp_path / "many.pt")
    with pytest.raises(FileFormatError, match="take more than 4 times the"):
        open_tensors(tmp_path / "many.pt")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.ones(2, 2).to_sparse(), "sparse"),
        (lambda: torch.ones(2, 2, device="meta"), "without values"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    ],
)
def test_tensors_that_are_no_plain_arrays(tmp_path, make, words):
    torch.save({"a": torch.ones(2), "b": make()}, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=rf"tensor b is .*{words}.*expected a plain one"):
        open_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "name", ["builtins eval", "torch load", "torch.storage open", "numpy.core.multiarray _reconstruct"]
)
def test_names_that_are_not_known_to_be_harmless(tmp_path, name):
    module, function = name.split()
    stacked = pickled(*(b"X" + struct.pack("<I", len(t)) + t.encode() for t in (module, function)), b"\x93")
    for content in (pickled(f"c{module}\n{function}\n".encode()), stacked):
        (tmp_path / "a.ckpt").write_bytes(archive(content))
        with pytest.raises(UnsafeFileError, match=f"`{module}.{function}`.*nothing of it was run"):
            open_tensors(tmp_path / "a.ckpt")


@pytest.mark.parametrize(("magic", "protocol"), [(0, 0), (1, 0), (0, 1), (0, -1)])
def test_only_a_file_with_torchs_number_and_protocol_is_of_the_old_form(tmp_path, magic, protocol):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "a.ckpt").read_bytes()
    start = len(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    head = pickle.dumps(0x1950A86A20F9469CFC6C + magic, 2) + pickle.dumps(1001 + protocol, 2)
    (tmp_path / "a.ckpt").write_bytes(head + raw[start:])
    if (magic, protocol) == (0, 0):
        assert open_tensors(tmp_path / "a.ckpt").read("a").tolist() == [0, 1, 2]
    else:
        with pytest.raises(FileFormatError):
            open_tensors(tmp_path / "a.ckpt")
