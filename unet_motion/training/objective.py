"""What a denoiser is trained towards: its target, the weight of each noise level, and the noise itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampling import NoiseSchedule

LEAST_LEVEL = 1e-3
"""alpha_bar of the noisiest level that still counts more than the one before."""


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of clips at given noise levels.

    Attributes:
        schedule: of the noise; its `prediction` says what the model gives.
        min_snr: gamma of Hang et al. 2023 ("Efficient Diffusion Training via Min-SNR Weighting Strategy"): errors of
            the clean clip count min(SNR, gamma) times; 0 counts errors of the prediction as they are.
        noise_offset: size of a noise that is one number for a channel of a whole clip, so that its mean is learned
            too; 0 is none.
        noise_power: a row counts alpha_bar^-noise_power times: the errors of a prediction of the noise say little of
            the clip where there is much noise, but how things move is decided there. 0 leaves them as they are, 1
            makes them about those of the clip.
    """

    schedule: NoiseSchedule
    min_snr: float = 0.0
    noise_offset: float = 0.0
    noise_power: float = 0.0

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
        level = self.schedule.alphas_cumprod[timesteps.cpu()]
        weights = torch.ones(timesteps.shape)
        if self.min_snr:
            snr = level / (1 - level)
            if self.schedule.prediction == "epsilon":
                weights = (self.min_snr / snr).clamp(max=1)
            else:
                capped = snr.clamp(max=self.min_snr)
                weights = capped / (snr + 1) if self.schedule.prediction == "v_prediction" else capped
        if self.noise_power:
            # No row counts without end where nothing of the clip is left, as at zero terminal SNR.
            weights = weights * level.clamp_min(LEAST_LEVEL) ** -self.noise_power
        return weights.float()

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Weighted mean squared error of the model's output (B, F, C, h, w), a number."""
        rows = (output.float() - self.target(clean, noise, timesteps)).square().flatten(1).mean(1)
        return (self.weights(timesteps).to(rows.device) * rows).mean()

    def debiased(
        self, output: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor, anchor: Tensor, beta: float = 1.0
    ) -> Tensor:
        """Weighted error of what differs from one frame of each clip: its appearance, which all share, counts less.

        Zhao et al. 2023 ("MotionDirector"), equations 6 and 7: sqrt(beta^2 + 1) x - beta x[anchor], anchor (B,).
        """

        def without(x: Tensor) -> Tensor:
            rows = torch.arange(len(x), device=x.device)
            return (beta**2 + 1) ** 0.5 * x - beta * x[rows, anchor.to(x.device), None]

        target = self.target(clean, noise, timesteps)
        rows = (without(output.float()) - without(target)).square().flatten(1).mean(1)
        return (self.weights(timesteps).to(rows.device) * rows).mean()
