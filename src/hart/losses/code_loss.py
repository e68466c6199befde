"""Head and cross entropy together, in chunks of tokens, so that the logits of all tokens never exist at once.

A chunk's logits give its losses and, at once, their gradients; both are freed before the next chunk. Only the gradients
of the head's input and weights are kept for the backward pass. (As in Liger kernels, arXiv 2410.10989.)

Shapes: N tokens, n tokens of a chunk, C width, V codes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.generation.guidance_and_sampling import filtered, sample
from hart.layers.linear import in_autocast, without_autocast

CHUNK = {"cpu": 2**21, "cuda": 2**26}
"""Logits per chunk: 8 MB on a CPU, to fit its cache; 256 MB on a GPU, to keep it busy."""
# Codes that condition the diffusion are sampled from the model's own distribution, filtered by these.
SAMPLED_TOP_K, SAMPLED_TOP_P = 600, 0.96


class CodeLoss(nn.Module):
    """Computes losses from logits. Without parameters; a module so that it can be compiled as blocks are."""

    def __init__(self, cluster_weight: float = 0.0, clusters: Tensor | None = None) -> None:
        """clusters: (V,), the cluster of each code, see `hart.losses.transformer_loss.code_clusters`."""
        super().__init__()
        self.cluster_weight = cluster_weight
        self.clusters = clusters

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return for n tokens: cross entropy; minus the log-probability of all codes in the target's cluster; whether
        no code is more likely than the target; and the gradient (n, V) of the sum of all losses in the logits' type.

        logits: (n, V), converted to float32. targets: (n,). weights: (n,), of each token's loss in the sum.
        """
        logits, dtype = logits.float(), logits.dtype
        targets, weights = targets.unsqueeze(1), weights.unsqueeze(1)
        largest = logits.amax(dim=1, keepdim=True)
        wide = (logits - largest).exp()
        total = wide.sum(dim=1, keepdim=True)
        wanted = logits.gather(1, targets)
        entropy = total.log() + largest - wanted
        gradient = wide * (1 / total)
        cluster_entropy = None
        if self.clusters is not None:
            outside = self.clusters != self.clusters[targets]
            inside = logits.masked_fill(outside, -torch.inf)
            # a cluster may be so improbable that its codes underflow beside the others
            largest_inside = inside.amax(dim=1, keepdim=True)
            narrow = (inside - largest_inside).exp()
            total_inside = narrow.sum(dim=1, keepdim=True)
            cluster_entropy = entropy + wanted - largest_inside - total_inside.log()
            scaled = (1 + self.cluster_weight) * gradient
            gradient = scaled - narrow * (self.cluster_weight / total_inside)
        is_target = torch.arange(logits.shape[1], device=logits.device) == targets
        gradient = (gradient - is_target.to(gradient.dtype)) * weights
        cluster_entropy = None if cluster_entropy is None else cluster_entropy.squeeze(1)
        return entropy.squeeze(1), cluster_entropy, (wanted >= largest).squeeze(1), gradient.to(dtype)


def code_losses(
    x: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor, loss: CodeLoss
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return the weighted sum of the tokens' losses, with gradients for x and the head; and for each token, without
    gradient, what `CodeLoss` returns: cross entropy, that of the clusters, whether it is right.

    x: (..., C), which `head` turns into logits. Products use autocast's type if it is on, else the type of x.
    targets: (...) codes. weights: of each token's loss, broadcast.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if in_autocast(x) else x.dtype
    given = x.flatten(0, -2), head.weight, head.bias, targets.flatten(), weights.expand_as(targets).flatten()
    with without_autocast(kind):
        total, entropy, clusters, correct = _ChunkedHead.apply(*given, loss, dtype, torch.is_grad_enabled())
    clusters = None if clusters is None else clusters.view_as(targets)
    return total, entropy.view_as(targets), clusters, correct.view_as(targets)


@torch.no_grad()
def sampled_codes(x: Tensor, head: nn.Linear, uniform: Tensor) -> Tensor:
    """Sample a code (...) for each token x (..., C), from the nucleus of the prediction of `head`, by inverting the
    distribution function at `uniform` (...) in [0, 1)."""
    rows, numbers = x.detach().flatten(0, -2), uniform.flatten()
    codes = [
        sample(filtered(head(rows[part]).float(), SAMPLED_TOP_K, SAMPLED_TOP_P), numbers[part])
        for part in _chunks(len(rows), head.out_features, x.device)
    ]
    return torch.cat(codes).view_as(uniform)


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        weights: Tensor,
        loss: CodeLoss,
        dtype: torch.dtype,
        train: bool,
    ) -> tuple[Tensor | None, ...]:
        for_x, for_weight, for_bias = (needed and train for needed in ctx.needs_input_grad[:3])
        narrow, narrow_weight, narrow_bias = (t.to(dtype) for t in (x, weight, bias))
        x_gradient = torch.empty_like(narrow) if for_x else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if for_bias else None
        kept = []
        for part in _chunks(x.shape[0], weight.shape[0], x.device):
            logits = F.linear(narrow[part], narrow_weight, narrow_bias)
            *found, gradient = loss(logits, targets[part], weights[part])
            kept.append(found)
            if x_gradient is not None:
                torch.mm(gradient, narrow_weight, out=x_gradient[part])
            if weight_gradient is not None:
                weight_gradient += gradient.T @ narrow[part]
            if bias_gradient is not None:
                bias_gradient += gradient.sum(dim=0, dtype=torch.float32)
        entropies, cluster_entropies, corrects = zip(*kept, strict=True)
        entropy, correct = torch.cat(entropies), torch.cat(corrects)
        cluster_entropy = None if loss.clusters is None else torch.cat(cluster_entropies)
        losses = entropy if cluster_entropy is None else entropy + loss.cluster_weight * cluster_entropy
        ctx.gradients = x_gradient, weight_gradient, bias_gradient
        outputs = entropy, cluster_entropy, correct
        ctx.mark_non_differentiable(*(output for output in outputs if output is not None))
        return (losses * weights).sum(), *outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # in float32: a division for gradient accumulation would be rounded
        return *(None if gradient is None else gradient.float() * total for gradient in ctx.gradients), *[None] * 5


def _chunks(tokens: int, codes: int, device: torch.device) -> list[slice]:
    """Return the rows of each chunk; all chunks have nearly the same size."""
    count = max(1, -(-tokens * codes // CHUNK.get(device.type, CHUNK["cuda"])))
    edges = [tokens * i // count for i in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(edges)]
