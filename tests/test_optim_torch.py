"""Optimizers and clipping against PyTorch's, and on PyTorch's tensors."""

import inspect

import numpy as np
import pytest
from helpers import DTYPES
from optimizers import NAMES, SETTINGS, make

import gradfuse

torch = pytest.importorskip("torch")

every_optimizer = pytest.mark.parametrize("name", [name for name in NAMES if hasattr(torch.optim, name)])
SHAPES = [(3, 5), (), (0, 4), (100,)]


def tensors(rng, dtype, requires_grad=False):
    return [torch.tensor(rng.normal(size=s), dtype=getattr(torch, dtype), requires_grad=requires_grad) for s in SHAPES]


def torch_settings(name):
    """Those that PyTorch has too, which forbids Nesterov's momentum with none or with dampening."""
    known = inspect.signature(getattr(torch.optim, name)).parameters
    for setting in SETTINGS[name]:
        if setting.get("nesterov") and setting["momentum"]:
            setting = {**setting, "dampening": 0.0}
        elif setting.get("nesterov"):
            continue
        default = name == "AdamW"
        if setting.get("lr_in_momentum") or (
            setting["decoupled_weight_decay"] != default and "decoupled_weight_decay" not in known
        ):
            continue
        yield {k: v for k, v in setting.items() if k in known}, {k: v for k, v in setting.items() if k not in known}


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ten_steps(rng, name, dtype):
    count = 0
    for setting, others in torch_settings(name):
        theirs = tensors(rng, dtype, requires_grad=True)
        ours = [p.detach().numpy().copy() for p in theirs]
        groups = [slice(0, 2), slice(2, 4)]
        expected = getattr(torch.optim, name)(
            [{"params": theirs[groups[0]]}, {"params": theirs[groups[1]], "lr": 0.2}], foreach=False, **setting
        )
        opt = getattr(gradfuse.optim, name)(
            [{"params": ours[groups[0]]}, {"params": ours[groups[1]], "lr": 0.2}], **setting, **others
        )
        for step in range(10):
            if step == 5:
                opt.lr = 0.1
                for group in expected.param_groups:
                    group["lr"] = 0.1
            for p in theirs:
                p.grad = torch.tensor(rng.normal(size=tuple(p.shape)), dtype=p.dtype)
            expected.step()
            opt.step([p.grad.numpy() for p in theirs])
        # PyTorch keeps NAdam's product in float32.
        tolerance = 2e-5 if dtype == "float32" else 1e-8 if name == "NAdam" else 1e-12
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=tolerance, atol=tolerance, err_msg=str(setting))
        count += 1
    assert count > 0


@every_optimizer
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_as_parameters(rng, name, dtype, requires_grad):
    """The same steps as on arrays of the same numbers, through .grad; storages that are swapped are followed."""
    params = tensors(rng, dtype, requires_grad)
    numbers = "float64" if dtype == "float64" else "float32"
    arrays = [p.detach().to(getattr(torch, numbers)).numpy().copy() for p in params]
    opt = make(name, params, master_weights=True, max_grad_norm=1.0)
    plain = make(name, arrays, max_grad_norm=1.0)
    for step in range(4):
        for p in params:
            p.grad = torch.tensor(rng.normal(size=tuple(p.shape)), dtype=p.dtype)
        if step == 2:
            params[0].grad = None
            params[3].data = params[3].data.clone()
        opt.step()
        plain.step([None if p.grad is None else p.grad.to(getattr(torch, numbers)).numpy() for p in params])
    for p, a in zip(params, arrays, strict=True):
        assert torch.equal(p.detach(), torch.from_numpy(a).to(p.dtype))
        assert p.requires_grad == requires_grad


def test_views_of_tensors(rng):
    base = torch.zeros(8, 8)
    p = base[1::2, ::3].T
    gradfuse.optim.SGD([p], lr=1.0).step([torch.ones(3, 4)])
    assert base.sum() == -12
    assert (base[1::2, ::3] == -1).all()


def test_what_autograd_follows_is_no_gradient():
    p = torch.zeros(3)
    opt = gradfuse.optim.SGD([p])
    with pytest.raises(TypeError, match=r"SGD.step: grads\[0\] could not be read through DLPack: .*requires? grad"):
        opt.step([torch.ones(3, requires_grad=True)])
    assert opt.t == 0


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clip_grad_norm(rng, max_norm):
    params = [torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in SHAPES]
    for p in params:
        p.grad = torch.tensor(rng.normal(size=tuple(p.shape)))
    grads = [p.grad.clone() for p in params]
    norm = gradfuse.clip_grad_norm_(grads, max_norm)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(params, max_norm)), rel=1e-14)
    for g, p in zip(grads, params, strict=True):  # PyTorch divides by the norm + 1e-6
        np.testing.assert_allclose(g.numpy(), p.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_grad_value(rng, dtype):
    params = tensors(rng, dtype, requires_grad=True)
    for p in params:
        p.grad = torch.tensor(rng.normal(size=tuple(p.shape)), dtype=p.dtype)
    grads = [p.grad.clone() for p in params]
    gradfuse.clip_grad_value_(grads, 0.7)
    torch.nn.utils.clip_grad_value_(params, 0.7)
    for g, p in zip(grads, params, strict=True):
        assert torch.equal(g, p.grad)


def test_parameters_are_read_without_a_new_tensor(monkeypatch):
    params = [torch.zeros(3, requires_grad=True) for _ in range(3)]
    opt = gradfuse.optim.SGD(params, lr=1.0)
    monkeypatch.setattr(torch.Tensor, "detach", None)
    opt.step([torch.ones(3)] * 3)
    assert all((p == -1).all() for p in params)
