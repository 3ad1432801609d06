"""What is decayed and what is not, counted for every depth, by what a parameter is; and each optimizer's arithmetic."""

import copy
import io
import math
from collections.abc import Iterator
from typing import get_args

import pytest
import timm
import timm.optim
import torch
from timm.layers import ConvNormAct, EvoNorm2dS0, FilterResponseNormTlu2d, GroupNormAct, RmsNorm, ScaledStdConv2d
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock

from trainer.model import build_model
from trainer.optim.optimizer import audit, build_optimizer, is_norm, sort_parameters
from trainer.recipe import (
    LAMB,
    LARS,
    SGD,
    AdamW,
    CifarResNet,
    DecoupledSGD,
    FineTuning,
    LibraryModel,
    LibraryOptimizer,
    Optimizer,
    ResNet,
    WideResNet,
)
from trainer.recipe_file import load_recipe

NORM_TENSORS = {18: 40, 34: 72, 50: 106, 101: 208, 152: 310}
BLOCKS = {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}
GOYAL = load_recipe("resnet50_goyal2017_8k").optimizer


@pytest.mark.slow
@pytest.mark.parametrize("depth", sorted(NORM_TENSORS))
def test_goyals_rule_misses_no_norm_tensor_and_no_last_gamma(depth: int) -> None:
    model = build_model(ResNet(depth=depth, zero_init_residual=True), 1000)  # type: ignore[arg-type]
    counted = audit(GOYAL, model)
    assert counted.norm_tensors == NORM_TENSORS[depth]
    assert counted.norm_tensors_decayed == 0
    assert (counted.biases, counted.biases_decayed) == (1, 1)
    assert counted.gammas_zero == BLOCKS[depth]
    decayed, exempt = build_optimizer(GOYAL, model).param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (1e-4, 0.0)
    assert len(exempt["params"]) == NORM_TENSORS[depth]
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(model.parameters()))


def test_torchvisions_rule_decays_everything() -> None:
    optimizer = build_optimizer(load_recipe("resnet50_torchvision_v1").optimizer, build_model(ResNet(depth=50), 1000))
    (group,) = optimizer.param_groups
    assert (len(group["params"]), group["weight_decay"]) == (161, 1e-4)


def test_norm_is_found_whatever_its_name() -> None:
    model = nn.ModuleDict({"shortcut": nn.BatchNorm2d(4), "bn_like": nn.Conv2d(3, 4, 1), "ln": nn.LayerNorm(4)})
    weights, biases, norms = sort_parameters(model)
    assert weights == [model["bn_like"].weight]
    assert biases == [model["bn_like"].bias]
    assert len(norms) == 4


def test_optimizer_exempts_norms_and_biases_of_the_relatives() -> None:
    """Two biases in each squeeze-and-excitation, one in the classifier; two norm tensors in each norm."""
    model = build_model(ResNet(depth=18, variant="rs", se_ratio=1 / 4), 10)
    weights, biases, norms = sort_parameters(model)
    assert (len(weights), len(biases), len(norms)) == (4 + 16 + 3 + 16 + 1, 16 + 1, 2 * (4 + 16 + 3))
    weights, biases, norms = sort_parameters(build_model(WideResNet(depth=16, width=2), 10))
    assert (len(weights), len(biases), len(norms)) == (1 + 12 + 3 + 1, 1, 2 * 13)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "test_efficientnet_evos", "convnext_zepto_rms", "test_vit"])
def test_exempt_tensors_are_those_that_timm_exempts(name: str) -> None:
    """Biases by names of their own, norms that share no class with torch's, and gains without a norm."""
    with torch.device("meta"):
        model = timm.create_model(name)
    exempt, _ = timm.optim.param_groups_weight_decay(model, weight_decay=0.1)
    _, biases, norms = sort_parameters(model)
    assert exempt["weight_decay"] == 0 and biases and norms
    assert {id(parameter) for parameter in (*biases, *norms)} == {id(parameter) for parameter in exempt["params"]}


def test_norms_of_a_library_are_known_by_name_and_tensors() -> None:
    kinds = (EvoNorm2dS0, FilterResponseNormTlu2d, GlobalResponseNorm, GroupNormAct, RmsNorm)
    for norm in (GroupNormAct(8, num_groups=2) if kind is GroupNormAct else kind(8) for kind in kinds):
        assert is_norm(norm)
        assert sort_parameters(norm) == ([], [], list(norm.parameters()))
    assert not is_norm(ConvNormAct(3, 8)) and not is_norm(nn.Conv2d(3, 8, 1))


def test_biases_and_gains_are_known_whatever_their_names() -> None:
    attention, scale = nn.MultiheadAttention(8, 2), CNBlock(8, layer_scale=1e-6, stochastic_depth_prob=0.0)
    assert sort_parameters(attention)[1] == [attention.in_proj_bias, attention.out_proj.bias]
    weights, biases, gains = sort_parameters(scale)
    assert (len(weights), len(biases), len(gains)) == (3, 3, 1 + 2)
    assert gains[0] is scale.layer_scale and gains[0].shape == (8, 1, 1)


def test_gains_of_a_convolution_are_exempt_and_kernels_of_one_value_per_channel_are_not() -> None:
    """timm decays these gains, because they have four dimensions."""
    convolution = ScaledStdConv2d(8, 8, 3)
    assert convolution.gain.shape == (8, 1, 1, 1)
    assert sort_parameters(convolution) == ([convolution.weight], [convolution.bias], [convolution.gain])
    for kernel in (nn.Conv2d(8, 8, 1, groups=8, bias=False), nn.Conv2d(8, 8, 3, groups=8, bias=False)):
        assert sort_parameters(kernel) == ([kernel.weight], [], [])
    position = nn.ParameterDict({"position": torch.zeros(1, 8, 1, 1)})
    assert sort_parameters(position) == ([position["position"]], [], [])


@pytest.mark.parametrize("spec", [CifarResNet(depth=20), LibraryModel(name="timm/resnet18")])
def test_optimizer_every_parameter_is_in_exactly_one_group(spec: CifarResNet | LibraryModel) -> None:
    model = build_model(spec, 10)
    optimizer = build_optimizer(SGD(lr=0.1, decay_norm=False, decay_bias=False), model)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


SPECS: list[Optimizer] = [
    SGD(lr=0.5, weight_decay=0.1),
    SGD(lr=0.5, weight_decay=0.1, nesterov=True),
    SGD(lr=0.5, weight_decay=0.1, momentum=0, decay_norm=False, decay_bias=False),
    DecoupledSGD(lr=0.5, weight_decay=0.1),
    DecoupledSGD(lr=2.0, weight_decay=0.1, nesterov=True, decay_norm=False),
    DecoupledSGD(lr=2.0, weight_decay=0.1, momentum=0),
    DecoupledSGD(lr=0.0, weight_decay=0.0),
    AdamW(lr=0.05, weight_decay=0.1),
    AdamW(lr=0.05, weight_decay=0.1, decay_norm=False, decay_bias=False),
    AdamW(lr=0.05, weight_decay=0.0, betas=(0.8, 0.95), eps=1e-3),
    AdamW(lr=0.05, betas=(0.0, 0.0), eps=1e-3),
    LAMB(lr=0.05, weight_decay=0.1),
    LAMB(lr=0.05, weight_decay=0.1, decay_norm=False, decay_bias=False),
    LAMB(lr=0.05, weight_decay=0.1, max_grad_norm=None, betas=(0.8, 0.95), eps=1e-3),
    LAMB(lr=0.05, weight_decay=0.0),
    LAMB(lr=0.05, weight_decay=0.0, decay_norm=False, decay_bias=False),
    LARS(lr=20.0, weight_decay=0.1),
    LARS(lr=20.0, weight_decay=0.1, nesterov=True, trust_coefficient=0.01, decay_norm=False, decay_bias=False),
    LARS(lr=20.0, weight_decay=0.1, momentum=0),
    LARS(lr=20.0, weight_decay=0.0),
    LARS(lr=20.0, weight_decay=0.0, decay_norm=False, decay_bias=False),
    LibraryOptimizer(lr=0.01, weight_decay=0.1, name="timm/lion"),
    LibraryOptimizer(lr=0.01, name="timm/lion", options={"betas": (0.8, 0.95)}, decay_norm=False),
]
EVERY_OPTIMIZER = pytest.mark.parametrize("spec", SPECS, ids=str)
SHARES = (0.2, 1.0, 0.7, 0.1)  # of the peak rate, which rises and falls while velocities go on


def network() -> nn.Module:
    """All kinds of tensors, in float64; beta is zero, which is a case of its own for rates in proportion to norms."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).double()


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)


def step_all(optimizer: torch.optim.Optimizer, model: nn.Module, lr: float, step: int) -> None:
    """One step as the loop makes it."""
    set_gradients(model, step)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    optimizer.step()


def sgd(spec: SGD, weight: Tensor, gradients: list[Tensor], decay: float) -> Iterator[Tensor]:
    velocity = torch.zeros_like(weight)
    for share, gradient in zip(SHARES, gradients, strict=True):
        coupled = 0.0 if isinstance(spec, DecoupledSGD) else decay
        gradient = gradient + coupled * weight
        velocity = spec.momentum * velocity + gradient
        update = gradient + spec.momentum * velocity if spec.nesterov else velocity
        if isinstance(spec, DecoupledSGD):  # as Composer: (lr / peak lr) * weight_decay
            weight = weight - share * decay * weight
        weight = weight - share * spec.lr * update
        yield weight


def adamw(spec: AdamW, weight: Tensor, gradients: list[Tensor], decay: float) -> Iterator[Tensor]:
    """Loshchilov and Hutter 2017, algorithm 2, with the rate inside the decay, as in their later code and in torch."""
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, (share, gradient) in enumerate(zip(SHARES, gradients, strict=True), 1):
        m = spec.betas[0] * m + (1 - spec.betas[0]) * gradient
        v = spec.betas[1] * v + (1 - spec.betas[1]) * gradient**2
        update = m / (1 - spec.betas[0] ** t) / ((v / (1 - spec.betas[1] ** t)).sqrt() + spec.eps)
        weight = weight - share * spec.lr * decay * weight - share * spec.lr * update
        yield weight


def lamb(
    spec: LAMB, weight: Tensor, gradients: list[Tensor], norms: list[Tensor], decay: float | None
) -> Iterator[Tensor]:
    """You et al. 2019, algorithm 2, with the identity for phi; norms: of the whole gradient in each step.

    decay None: decay does not reach this layer, and its rate is not adapted.
    """
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, (share, gradient, norm) in enumerate(zip(SHARES, gradients, norms, strict=True), 1):
        if spec.max_grad_norm is not None:
            gradient = gradient / max(1.0, float(norm) / spec.max_grad_norm)
        m = spec.betas[0] * m + (1 - spec.betas[0]) * gradient
        v = spec.betas[1] * v + (1 - spec.betas[1]) * gradient**2
        update = m / (1 - spec.betas[0] ** t) / ((v / (1 - spec.betas[1] ** t)).sqrt() + spec.eps)
        update = update + (decay or 0.0) * weight
        adapts = decay is not None and weight.norm() > 0 and update.norm() > 0
        trust = weight.norm() / update.norm() if adapts else 1.0
        weight = weight - share * spec.lr * trust * update
        yield weight


def lars(spec: LARS, weight: Tensor, gradients: list[Tensor], decay: float | None) -> Iterator[Tensor]:
    """You et al. 2017, algorithm 1, with the rate applied after the momentum, as timm and PyTorch's SGD have it.

    decay None: as in lamb().
    """
    velocity = torch.zeros_like(weight)
    for share, gradient in zip(SHARES, gradients, strict=True):
        adapts = decay is not None and weight.norm() > 0 and gradient.norm() > 0
        decayed = gradient + (decay or 0.0) * weight
        sum_of_norms = gradient.norm() + (decay or 0.0) * weight.norm()
        trust = spec.trust_coefficient * weight.norm() / sum_of_norms if adapts else 1.0
        velocity = spec.momentum * velocity + trust * decayed
        update = trust * decayed + spec.momentum * velocity if spec.nesterov else velocity
        weight = weight - share * spec.lr * update
        yield weight


def lion(spec: LibraryOptimizer, weight: Tensor, gradients: list[Tensor], decay: float) -> Iterator[Tensor]:
    """Chen et al. 2023 (arXiv:2302.06675), algorithm 2."""
    first, second = spec.options.get("betas", (0.9, 0.99))  # type: ignore[misc, union-attr]
    m = torch.zeros_like(weight)
    for share, gradient in zip(SHARES, gradients, strict=True):
        update = torch.sign(first * m + (1 - first) * gradient)
        m = second * m + (1 - second) * gradient
        weight = weight - share * spec.lr * (update + decay * weight)
        yield weight


@EVERY_OPTIMIZER
def test_optimizer_each_step_is_the_formula_of_its_paper(spec: Optimizer) -> None:
    """For SGD in its docstring's form, for which the paper's momentum correction is not needed (Goyal, section 3)."""
    model = network()
    optimizer = build_optimizer(spec, model)
    _, biases, norms = sort_parameters(model)
    gradients: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for step in range(len(SHARES)):
        set_gradients(model, step)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradients[name].append(parameter.grad.clone())
    whole = [torch.cat([each[step].flatten() for each in gradients.values()]).norm() for step in range(len(SHARES))]
    expected: dict[str, Iterator[Tensor]] = {}
    for name, parameter in model.named_parameters():
        is_norm = any(parameter is norm for norm in norms)
        is_bias = any(parameter is bias for bias in biases)
        is_exempt = (is_norm and not spec.decay_norm) or (is_bias and not spec.decay_bias)
        decay = 0.0 if is_exempt else spec.weight_decay
        weight = parameter.detach().clone()
        match spec:
            case SGD():
                expected[name] = sgd(spec, weight, gradients[name], decay)
            case AdamW():
                expected[name] = adamw(spec, weight, gradients[name], decay)
            case LAMB():
                expected[name] = lamb(spec, weight, gradients[name], whole, None if is_exempt else decay)
            case LARS():
                expected[name] = lars(spec, weight, gradients[name], None if is_exempt else decay)
            case LibraryOptimizer():
                expected[name] = lion(spec, weight, gradients[name], decay)
    for step, share in enumerate(SHARES):
        step_all(optimizer, model, share * spec.lr, step)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), next(expected[name]), rtol=1e-6, atol=1e-9)


TIMM = [  # timm's own names and options for what ours say; timm exempts all 1-d tensors
    (SGD(lr=0.5, weight_decay=0.1, decay_norm=False, decay_bias=False), "momentum", {}),
    (SGD(lr=0.5, weight_decay=0.1, decay_norm=False, decay_bias=False, nesterov=True), "sgd", {}),
    (AdamW(lr=0.05, weight_decay=0.1, decay_norm=False, decay_bias=False), "adamw", {}),
    (AdamW(lr=0.05, weight_decay=0.1, decay_norm=False, decay_bias=False, eps=1e-3), "adamw", {"eps": 1e-3}),
    (LAMB(lr=0.05, weight_decay=0.1, decay_norm=False, decay_bias=False), "lamb", {}),
    (LAMB(lr=0.05, weight_decay=0.1, decay_norm=False, decay_bias=False, eps=1e-3), "lamb", {"eps": 1e-3}),
    (
        LAMB(lr=0.05, weight_decay=0.1, decay_norm=False, decay_bias=False, max_grad_norm=None),
        "lamb",
        {"max_grad_norm": None},
    ),
    (LARS(lr=20.0, weight_decay=0.1, decay_norm=False, decay_bias=False), "lars", {}),
    (
        DecoupledSGD(lr=0.5, weight_decay=0.1, decay_norm=False, decay_bias=False, nesterov=True),
        "sgdw",
        {"weight_decay": 0.1 / 0.5},
    ),
    (
        LibraryOptimizer(lr=0.05, weight_decay=0.1, name="timm/nadamw", decay_norm=False, decay_bias=False),
        "nadamw",
        {},
    ),
    (
        LibraryOptimizer(
            lr=0.05, weight_decay=0.1, name="timm/sgdw", options={"momentum": 0.8}, decay_norm=False, decay_bias=False
        ),
        "sgdw",
        {"momentum": 0.8},
    ),
]


@pytest.mark.parametrize(("spec", "name", "options"), TIMM, ids=str)
def test_optimizer_each_step_is_that_of_timms_own_factory(
    spec: Optimizer, name: str, options: dict[str, float | None]
) -> None:
    ours, theirs = network(), network()
    optimizer = build_optimizer(spec, ours)
    theirs_options = {"lr": spec.lr, "weight_decay": spec.weight_decay, **options}
    other = timm.optim.create_optimizer_v2(theirs, opt=name, filter_bias_and_bn=True, **theirs_options)
    for step, share in enumerate(SHARES):
        step_all(optimizer, ours, share * spec.lr, step)
        set_gradients(theirs, step)
        for group in other.param_groups:
            group["lr"] = share * spec.lr
        other.step()
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)


@EVERY_OPTIMIZER
def test_optimizer_continues_from_a_checkpoint_bit_for_bit(spec: Optimizer) -> None:
    fine_tuning = FineTuning(backbone_lr=0.5)
    model = network()
    optimizer = build_optimizer(spec, model, fine_tuning)
    for step in range(2):
        step_all(optimizer, model, spec.lr, step)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = network()
    other.load_state_dict(saved["model"])
    resumed = build_optimizer(spec, other, fine_tuning)
    resumed.load_state_dict(saved["optimizer"])
    for step in range(2, 5):
        step_all(optimizer, model, spec.lr / step, step)
        step_all(resumed, other, spec.lr / step, step)
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("for_each", [False, True])
@pytest.mark.parametrize("spec", [spec for spec in SPECS if isinstance(spec, DecoupledSGD | LAMB | LARS)], ids=str)
def test_step_of_timms_optimizers_reads_nothing_from_the_device(spec: Optimizer, for_each: bool) -> None:
    """A tensor on the meta device has no values to read: what tries raises. For_each is their way on a GPU."""
    model = network().to("meta")
    optimizer = build_optimizer(spec, model)
    for group in optimizer.param_groups:
        group["foreach"] = for_each
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
    with pytest.raises(RuntimeError, match="meta"):
        next(model.parameters()).sum().item()


def test_optimizer_every_optimizer_of_the_vocabulary_is_tested_here() -> None:
    assert {type(spec) for spec in SPECS} == set(get_args(Optimizer))


@pytest.mark.parametrize("first_step", [0, 1])
@pytest.mark.parametrize("spec", [SGD(lr=0.1), AdamW(lr=0.1)], ids=str)
def test_step_that_fp16s_scaler_leaves_out_changes_nothing(spec: Optimizer, first_step: int) -> None:
    """Also the first step, in which the fused optimizers make their state."""

    def train(left_out: bool) -> nn.Module:
        model, scaler = network().float(), torch.amp.GradScaler("cpu", init_scale=1.0)
        optimizer = build_optimizer(spec, model)
        for step in range(4 if left_out else 3):
            set_gradients(model, step - (left_out and step > first_step))
            if left_out and step == first_step:
                next(model.parameters()).grad.fill_(math.inf)  # type: ignore[union-attr]
            scaler.scale(torch.zeros(()))  # so that it is set up; it scales by 1, later by 1/2
            for parameter in model.parameters():
                parameter.grad = parameter.grad * scaler.get_scale()  # type: ignore[operator]
            scaler.step(optimizer)
            scaler.update()
        return model

    expected, found = train(False), train(True)
    for one, other in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)


@EVERY_OPTIMIZER
def test_gradients_are_left_as_they_are(spec: Optimizer) -> None:
    model = network()
    optimizer = build_optimizer(spec, model)
    for step in range(2):
        step_all(optimizer, model, spec.lr, step)
    after = [copy.deepcopy(parameter.grad) for parameter in model.parameters()]
    set_gradients(model, 1)
    assert all(torch.equal(old, new.grad) for old, new in zip(after, model.parameters(), strict=True))


def test_fine_tuning_has_a_group_for_each_rate_and_decay_and_the_classifier_the_full_rate() -> None:
    model = build_model(CifarResNet(depth=8), 10)
    spec = SGD(lr=0.4, weight_decay=1e-4, decay_norm=False)
    fine_tuned = build_optimizer(spec, model, FineTuning(backbone_lr=0.1)).param_groups
    counted = {(group["lr_factor"], group["weight_decay"]): len(group["params"]) for group in fine_tuned}
    assert counted == {(1.0, 1e-4): 2, (0.1, 1e-4): 7, (0.1, 0.0): 14}
    assert [group["lr"] for group in fine_tuned] == [0.4 * group["lr_factor"] for group in fine_tuned]
    plain = build_optimizer(spec, model).param_groups
    assert {(group["lr_factor"], group["weight_decay"]) for group in plain} == {(1.0, 1e-4), (1.0, 0.0)}
    (alone,) = build_optimizer(SGD(lr=0.4), model, FineTuning(freeze_norms=True)).param_groups
    assert (len(alone["params"]), alone["lr_factor"]) == (23, 1.0)


def test_frozen_parameter_is_in_no_group() -> None:
    model = build_model(CifarResNet(depth=8), 10)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc."))
    for spec in (SGD(lr=0.1), DecoupledSGD(lr=0.1), AdamW(lr=0.1), LAMB(lr=0.1), LARS(lr=0.1)):
        (group,) = build_optimizer(spec, model, FineTuning(backbone_lr=0)).param_groups
        assert [id(parameter) for parameter in group["params"]] == [
            id(parameter) for parameter in model.get_submodule("fc").parameters()
        ]
        counted = audit(spec, model)
        assert (counted.weights, counted.biases, counted.norm_tensors, counted.gammas) == (1, 1, 0, 7)
