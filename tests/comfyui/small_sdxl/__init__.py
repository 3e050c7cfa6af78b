"""A pack of one node for the tests: an SDXL model of ComfyUI's own classes, small enough for a CPU, and texts for it.

ComfyUI recognises no checkpoint of SDXL but the one of full size, which takes 14 GB of memory on a CPU.
"""

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "context_dim": 2048, "num_heads": -1,
    "num_head_channels": 64, "use_linear_in_transformer": True, "use_spatial_transformer": True,
    "use_temporal_attention": False, "use_temporal_resblock": False, "adm_in_channels": 2816,
    "num_classes": "sequential", "legacy": False, "dtype": torch.float32,
}  # fmt: skip


class SmallSDXL:
    """An SDXL model with 64 to 256 channels and random weights, and the conditioning of two prompts."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING")
    FUNCTION = "load"
    CATEGORY = "tests"

    def load(self):
        generator = torch.Generator().manual_seed(0)
        config = comfy.supported_models.SDXL(dict(UNET))
        config.unet_config = dict(UNET)
        device = comfy.model_management.unet_offload_device()
        model = comfy.model_base.SDXL(config, device=device)
        for name, parameter in model.diffusion_model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
            parameter.data.copy_(noise * fan_in**-0.5 + (parameter.dim() == 1 and name.endswith("weight")))
        model.diffusion_model.requires_grad_(False).eval()
        patcher = comfy.model_patcher.ModelPatcher(model, comfy.model_management.get_torch_device(), device)
        texts = [
            [
                [
                    torch.randn(1, 77, 2048, generator=generator),
                    {"pooled_output": torch.randn(1, 1280, generator=generator)},
                ]
            ]
            for _ in range(2)
        ]
        return (patcher, *texts)


NODE_CLASS_MAPPINGS = {"SmallSDXL": SmallSDXL}
