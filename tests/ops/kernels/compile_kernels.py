"""Compiles each kernel for an NVIDIA GPU of a compute capability, with none at hand, and prints how it came out: name,
bytes of shared memory, registers of a thread, and bytes of a thread's stack, which is what did not fit into registers.

The launchers run on CPU tensors, and where they would launch, the kernel is compiled for the arguments' types as
Triton would on the GPU: integers that are 1 become constants, and 16 divides pointers and multiples of it. Run it
without TRITON_INTERPRET.
"""

import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from unet_motion.ops.tuning import choosing

TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.bool: "*i1", torch.uint8: "*u8"}


class Compiled:
    """Stands for a kernel and compiles it where it would be launched."""

    def __init__(self, kernel, capability: int):
        self.kernel, self.capability = kernel, capability

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *arguments, **options):
        given = {**dict(zip(self.kernel.arg_names, arguments, strict=False)), **options}
        signature, places, names, attributes = {}, {}, {}, {}
        for i, parameter in enumerate(self.kernel.params):
            value = given[parameter.name]
            if parameter.is_constexpr or (isinstance(value, int) and value == 1):
                signature[parameter.name], places[(i,)], names[parameter.name] = "constexpr", value, value
                continue
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                attributes[(i,)] = [["tt.divisibility", 16]]
            if isinstance(value, torch.Tensor):
                signature[parameter.name] = TYPES[value.dtype]
            elif isinstance(value, int):
                signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
            else:
                signature[parameter.name] = "fp32"
        try:
            source = ASTSource(self.kernel, signature, places, attributes)
        except TypeError:  # older ones know constants by their names
            source = ASTSource(self.kernel, signature, names)
        chosen = {name: value for name, value in options.items() if name in ("num_warps", "num_stages")}
        result = triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=chosen)
        print(self.kernel.__name__, result.metadata.shared, *registers_and_stack(result.asm["cubin"]))


def registers_and_stack(cubin: bytes) -> tuple[int, int]:
    """By the disassembler that comes with Triton."""
    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", run.stdout + run.stderr)
    assert found is not None, run.stdout
    return int(found[1]), int(found[2])


def launcher(name: str, capability: int):
    """The launcher of a module whose kernels are compiled instead of launched."""
    module = importlib.import_module(f"unet_motion.ops.{name}.triton")
    for key, value in list(vars(module).items()):
        # Functions with an underscore and a grid are kernels; helpers without one are inlined by their callers.
        if isinstance(value, JITFunction) and key not in ("_sine", "_waves", "_upper_tail", "_gelu", "_tile"):
            setattr(module, key, Compiled(value, capability))
    return module.launch


def products(make) -> None:
    """With the tiles of each capability that has its own, and with the small ones, in float32 and of an odd depth."""
    tiles = importlib.import_module("unet_motion.ops.feed_forward.product.triton")
    kernel, half, single = tiles._geglu_product, torch.float16, torch.float32
    cases = ("8.0", half, 320), ("9.0", torch.bfloat16, 320), ("", half, 330), ("", single, 320)
    for capability, dtype, depth in cases:
        tiles._geglu_product = Compiled(kernel, int(capability.replace(".", "") or 80))
        with choosing("geglu_product", **tiles.LARGE.get(capability, {})):
            tiles.launch(make(64, depth, dtype=dtype), make(2560, depth, dtype=dtype), make(2560, dtype=dtype))


def main(capability: int) -> None:
    names = "feed_forward", "group_norm", "layer_norm", "freeu", "attention", "residual", "float8"
    geglu, group_norm, layer_norm, freeu, attention, residual, float8 = (launcher(name, capability) for name in names)

    def make(*shape, dtype=torch.float16):
        return torch.empty(*shape, dtype=dtype)

    def picture(n, c, h, w):
        return make(n, h, w, c).permute(0, 3, 1, 2)

    geglu(make(6, 2560))
    products(make)
    float8(make(6, 1280))
    weight = make(320)
    group_norm(make(2, 4096, 320), weight, weight, 32, 1e-6, True, make(2, 320))
    group_norm(make(1, 1, 320), weight, None, 32, 1e-6, False, None)
    # Wide groups, as one pass and in pieces, and those of a clip.
    wide = make(1280)
    for frames, pixels in ((32, 256), (32, 1024), (2, 16384)):
        group_norm(make(frames, pixels, 1280), wide, wide, 32, 1e-6, True, None)
    residual(picture(2, 320, 8, 8), picture(2, 320, 8, 8), weight)
    layer_norm(make(2, 3, 5, 320), make(2, 3, 5, 320), weight, weight, make(3, 320), 1e-5)
    layer_norm(make(1, 1, 1, 320), None, weight, None, make(1, 320), 1e-5)
    freeu(picture(2, 1280, 16, 16), picture(2, 640, 16, 16), 1.5, 0.2, True, torch.tensor(True))
    freeu(picture(2, 1, 1, 1), picture(2, 1, 1, 1), 1.5, 0.2, False, None)
    # The widest tiles of the most bytes: what float32 attention takes is the most that any kernel takes.
    cases = (1, 8, torch.float16), (16, 40, torch.bfloat16), (16, 160, torch.float32), (64, 160, torch.float32)
    for frames, dim, dtype in cases:
        tokens = [make(frames, 3, 2 * dim, dtype=dtype).transpose(0, 1).unflatten(-1, (2, dim)).transpose(1, 2)] * 3
        attention(*tokens, 0.3, make(1, 1, frames, frames) if frames == 16 else None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
