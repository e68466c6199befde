"""Head and losses in chunks: the numbers and gradients of the whole, at a fraction of its memory."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.losses import code_loss
from hart.losses.code_loss import CodeLoss, code_losses, sampled_codes
from hart.training.dry_run import LiveBytes
from helpers import random_tensor

TOKENS, WIDTH, CODES = 37, 6, 24
CLUSTERS = torch.arange(CODES) % 5
TARGETS = torch.arange(TOKENS) * 7 % CODES
WEIGHTS = torch.arange(1.0, TOKENS + 1) / 100


def given(tokens: int = TOKENS, codes: int = CODES) -> tuple[Tensor, nn.Linear]:
    head = nn.Linear(WIDTH, codes)
    head.weight.data, head.bias.data = 3 * random_tensor(codes, WIDTH, seed=1), random_tensor(codes, seed=2)
    return random_tensor(tokens, WIDTH).requires_grad_(), head


def whole(x: Tensor, head: nn.Linear, cluster_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss with all logits at once, and those of each token."""
    logits = head(x)
    entropy = F.cross_entropy(logits, TARGETS, reduction="none")
    probability = logits.softmax(dim=1)
    inside = torch.stack([probability[:, cluster == CLUSTERS].sum(dim=1) for cluster in range(5)], dim=1)
    clusters = -inside.gather(1, CLUSTERS[TARGETS].unsqueeze(1)).squeeze(1).log()
    return ((entropy + cluster_weight * clusters) * WEIGHTS).sum(), entropy, clusters


@pytest.mark.parametrize("chunk", [CODES * 8, 10**9], ids=["chunks", "one chunk"])
@pytest.mark.parametrize("cluster_weight", [0.0, 0.5])
def test_loss_and_gradients_are_those_of_the_whole(
    chunk: int, cluster_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(code_loss.CHUNK, "cpu", chunk)
    x, head = given()
    parameters = [x, head.weight, head.bias]
    expected, entropy, clusters = whole(x, head, cluster_weight)
    gradients = torch.autograd.grad(expected / 3, parameters)
    loss = CodeLoss(cluster_weight, CLUSTERS) if cluster_weight else CodeLoss()
    total, found, clustered, correct = code_losses(x, head, TARGETS, WEIGHTS, loss)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(found, entropy.detach())
    if clustered is not None:
        torch.testing.assert_close(clustered, clusters.detach())
    assert torch.equal(correct, head(x).argmax(dim=1) == TARGETS)
    torch.testing.assert_close(torch.autograd.grad(total / 3, parameters), gradients)
    with torch.no_grad():
        assert torch.equal(code_losses(x, head, TARGETS, WEIGHTS, loss)[0], total)


def test_what_is_frozen_takes_no_gradient() -> None:
    x, head = given()
    expected = torch.autograd.grad(whole(x, head, 0)[0], x)
    code_losses(x, head.requires_grad_(False), TARGETS, WEIGHTS, CodeLoss())[0].backward()
    torch.testing.assert_close((x.grad,), expected)
    assert head.weight.grad is None


def test_an_improbable_cluster_has_a_finite_loss() -> None:
    logits = torch.tensor([[0.0, 0.0, -300.0, -301.0]])
    loss = CodeLoss(1.0, torch.tensor([0, 0, 1, 1]))
    _, cluster, *_, gradient = loss(logits, torch.tensor([2]), torch.ones(1))
    assert cluster is not None
    assert cluster.item() == pytest.approx(300 + math.log(2) - math.log1p(math.exp(-1)))
    assert gradient.isfinite().all()


def test_products_are_in_the_type_of_autocast() -> None:
    x, head = given()
    with torch.autocast("cpu", torch.bfloat16):
        total, *_ = code_losses(x, head, TARGETS, WEIGHTS, CodeLoss())
    total.backward()
    torch.testing.assert_close(total, whole(x, head, 0)[0], rtol=1e-2, atol=0)
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_no_logits_of_all_tokens_ever_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, codes = 512, 256
    monkeypatch.setitem(code_loss.CHUNK, "cpu", tokens * codes // 16)
    x, head = given(tokens, codes)
    targets, weights = torch.zeros(tokens, dtype=torch.int64), torch.ones(tokens)

    def peak(chunked: bool) -> int:
        with LiveBytes() as live:
            if chunked:
                total = code_losses(x, head, targets, weights, CodeLoss())[0]
            else:
                total = F.cross_entropy(head(x), targets)
            total.backward()
        return live.peak

    assert peak(True) < tokens * codes * 4 < peak(False) / 2


def sampled(logits: Tensor, uniform: Tensor) -> Tensor:
    """By a head that hands on the logits."""
    head = nn.Linear(logits.shape[1], logits.shape[1])
    nn.init.eye_(head.weight), nn.init.zeros_(head.bias)
    return sampled_codes(logits, head, uniform)


def test_codes_are_sampled_from_the_best_ones_by_their_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_loss, "SAMPLED_TOP_K", 4)
    probability = torch.tensor([0.02, 0.5, 0.03, 0.25, 0.15, 0.05])
    # of the four best, 0.95 in all, the first three reach 0.9
    monkeypatch.setattr(code_loss, "SAMPLED_TOP_P", 0.9)
    count = 9000
    codes = sampled(probability.log().expand(count, -1), torch.arange(count) / count)
    shares = codes.bincount(minlength=6) / count
    torch.testing.assert_close(shares, torch.tensor([0, 0.5, 0, 0.25, 0.15, 0]) / 0.9, atol=1e-3, rtol=0)
    assert sampled(probability.log()[None], torch.tensor([1 - 2**-24])).item() == 4, "the last one"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_give_some_code(number: float) -> None:
    """The loss says later that they are not finite."""
    codes = sampled(torch.full((3, CODES), number), torch.tensor([0.0, 0.5, 0.9]))
    assert codes.amin() >= 0
    assert codes.amax() < CODES
