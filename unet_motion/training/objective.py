"""What a denoiser is trained towards: its target, the weight of each noise level, and the noise itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampling import NoiseSchedule


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of clips at given noise levels.

    Attributes:
        schedule: of the noise; its `prediction` says what the model gives.
        min_snr: gamma of Hang et al. 2023 ("Efficient Diffusion Training via Min-SNR Weighting Strategy"): errors of
            the clean clip count min(SNR, gamma) times; 0 counts errors of the prediction as they are.
        noise_offset: size of a noise that is one number for a channel of a whole clip, so that its mean is learned
            too; 0 is none.
    """

    schedule: NoiseSchedule
    min_snr: float = 0.0
    noise_offset: float = 0.0

    def draw_noise(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Noise like clips (B, F, C, h, w) on the CPU."""
        noise = torch.randn(clean.shape, generator=generator)
        if self.noise_offset:
            shift = torch.randn(clean.shape[0], 1, clean.shape[2], 1, 1, generator=generator)
            noise = noise + self.noise_offset * shift
        return noise

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps int64 (count,), all equally likely."""
        return torch.randint(len(self.schedule.alphas_cumprod), (count,), generator=generator)

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should give for clips (B, ...) with this noise at timesteps (B,)."""
        prediction = self.schedule.prediction
        if prediction == "epsilon":
            return noise
        if prediction == "sample":
            return clean
        # v = alpha * noise - sigma * clean, Salimans and Ho 2022: noise added to, with the roles and a sign changed.
        return self.schedule.add_noise(noise, -clean, timesteps)

    def weights(self, timesteps: Tensor) -> Tensor:
        """Weight of each row's squared error, float32 like timesteps (B,).

        With gamma, min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v, and / 1 for the clip itself.
        """
        if not self.min_snr:
            return torch.ones(timesteps.shape)
        level = self.schedule.alphas_cumprod[timesteps.cpu()]
        snr = level / (1 - level)
        if self.schedule.prediction == "epsilon":
            return (self.min_snr / snr).clamp(max=1).float()
        capped = snr.clamp(max=self.min_snr)
        return (capped / (snr + 1) if self.schedule.prediction == "v_prediction" else capped).float()

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Weighted mean squared error of the model's output (B, F, C, h, w), a number."""
        rows = (output.float() - self.target(clean, noise, timesteps)).square().flatten(1).mean(1)
        return (self.weights(timesteps).to(rows.device) * rows).mean()
