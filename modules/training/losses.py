"""Losses of the sandwich rule and of block distillation."""
from __future__ import annotations

import torch
import torch.nn.functional as F


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.1) -> torch.Tensor:
    """Cross-entropy against (1 - smoothing) onehot + smoothing / K (Szegedy et al., 2016), mean over the batch.

    `logits` is (N, K), such as (64, 1000), `labels` is (N,) int64, or (N, K) probabilities in place of onehot.
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def adaptive_divergence(logits: torch.Tensor, target_logits: torch.Tensor, alpha_min: float = -1.0,
                        alpha_max: float = 1.0, clip: float = 5.0) -> torch.Tensor:
    """Adaptive alpha-divergence between student and soft target (Wang et al., AlphaNet, 2021), mean over the batch.

    The larger of the divergences at `alpha_min` and `alpha_max` is used for each sample. The returned value is a
    surrogate with the gradient of these divergences. Ratios of probabilities are clipped at `clip` for alpha_min, as
    published. Both arguments are (N, K) logits, such as (64, 1000); the target receives no gradient.
    """
    log_q, log_p = F.log_softmax(logits, 1), F.log_softmax(target_logits.detach(), 1)
    left, left_surrogate = _divergence(log_q, log_p, alpha_min, clip)
    right, right_surrogate = _divergence(log_q, log_p, alpha_max, clip)
    return torch.where(left > right, left_surrogate, right_surrogate).mean()


def _divergence(log_q: torch.Tensor, log_p: torch.Tensor, alpha: float, clip: float):
    # Value and surrogate per sample. With r = p / q and f the generator of the divergence, the value is
    # sum q (f(r) - f(1)) and the surrogate -sum q rho log q, rho = r f'(r) - f(r) up to a constant; q and r in the
    # weights carry no gradient.
    q, log_r = log_q.detach().exp(), log_p - log_q.detach()
    if alpha == 1:
        p = log_p.exp()
        return (p * log_r).sum(1), -(p * log_q).sum(1)
    if alpha == 0:
        log_r = log_r.clamp(max=torch.tensor(clip).log().item())
        return -(q * log_r).sum(1), -(q * (log_r - 1) * log_q).sum(1)
    constant = 1 / (alpha * (alpha - 1))
    c = (alpha * log_r).exp().clamp(max=clip)
    return (q * (c - 1)).sum(1) * constant, -(q * (c / alpha + constant) * log_q).sum(1)


def noise_to_signal(output: torch.Tensor, target: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """Noise-to-signal ratio (DONNA; Moons et al., 2021) of two feature maps (N, C, H, W), such as (64, 24, 56, 56): the
    mean over N and C of the mean squared difference over H and W, divided by the target's (unbiased) variance over H
    and W plus `eps`. A scalar: 0 for equal maps, about 1 for the mean of each channel."""
    noise = (output - target).square().mean((2, 3))
    return (noise / (target.var((2, 3)) + eps)).mean()
