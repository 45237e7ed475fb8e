"""The two quantiser functions against a float64 composition of the published formula."""
import sys
import time

import numpy as np
import pytest
import torch

from modules.modeling import ops
from modules.modeling.ops import fake_quant
from modules.modeling.ops.compiled import compiled
from modules.modeling.ops.fake_quant import COMPILED, LOOPS, OPERATIONS, quantize_activation, quantize_weight, use_form

BITS = range(2, 9)


def straight_through(value, like):
    """`value` with the gradient of `like`."""
    return like + (value - like).detach()


def scaled_gradient(value, g):
    """`value` whose gradient is multiplied by g."""
    return value * g + (value - value * g).detach()


def compose(v, s, beta, low, high, g, integer=False):
    """round(clip((v - beta) / |s|)) |s| + beta from elementary operations; values at a bound count as clipped."""
    s, beta = scaled_gradient(s, g).abs(), scaled_gradient(beta, g)
    if integer:
        zero = (-beta / s).round().clamp(low, high).detach()
        beta = straight_through(-zero * s, beta)
    t = (v - beta) / s
    code = ((v / s).round() + zero if integer else t.round()).detach()
    inside = (t > low) & (t < high)
    clipped = torch.where(t <= low, torch.full_like(t, low), torch.full_like(t, high))
    return torch.where(inside, straight_through(code, t), clipped) * s + beta


def run(function, values, upstream):
    """Output and gradients of `function` for leaf copies of `values`."""
    leaves = [v.detach().clone(memory_format=torch.preserve_format).requires_grad_() for v in values]
    out = function(*leaves)
    out.backward(upstream.to(out.dtype))
    return out.detach(), *(leaf.grad for leaf in leaves)


def activation_reference(bits, zero_point, count):
    """`quantize_activation` in float64."""
    levels = 2**bits - 1
    return lambda v, s, beta: compose(v.double(), s.double(), beta.double(), 0, levels, (count * levels) ** -0.5,
                                      zero_point == "integer")


def weight_reference(bits, narrow, count):
    """`quantize_weight` in float64."""
    top = 2 ** (bits - 1) - 1
    low = -top if narrow else -top - 1
    return lambda v, s: compose(v.double(), s.double(), torch.zeros(1, dtype=torch.float64), low, top,
                                (count * top) ** -0.5)


def assert_agree(ours, reference, exact_output=True):
    """Outputs equal (or to float32 rounding), gradients to rounding of their sums."""
    assert ours[0].dtype == torch.float32
    if exact_output:
        assert torch.equal(ours[0].double(), reference[0].double())
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=2e-5, atol=2e-5)


def grid(low, high, step):
    """Every multiple of a quarter step from below the low bound to above the high one: bounds and ties included."""
    return torch.arange(4 * (low - 2), 4 * (high + 2) + 1).float() * step / 4


@pytest.mark.parametrize(("zero_point", "offset"), [
    *(("float", offset) for offset in (0.0, -0.75, -1.5, 5.25, -20.0)),
    *(("integer", offset) for offset in (0.0, -0.75, -1.5, 5.25, -20.0, -900.0)),
])
@pytest.mark.parametrize("bits", BITS)
def test_activation_at_bounds_and_ties(bits, zero_point, offset):
    """Dyadic scale and offset, so that every bound and tie is met exactly; an offset too low or high is held."""
    torch.manual_seed(bits)
    step, levels = 2.0**-5, 2**bits - 1
    first = offset if zero_point == "float" else -min(max(round(-offset), 0), levels)
    values = grid(0, levels, step) + first * step
    values = values[torch.randperm(len(values))].view(1, -1)
    upstream = torch.randn_like(values)
    args = (values, torch.tensor([step]), torch.tensor([offset * step]))
    ours = run(lambda v, s, b: quantize_activation(v, s, bits, b, True, zero_point), args, upstream)
    assert_agree(ours, run(activation_reference(bits, zero_point, values.numel()), args, upstream))
    assert torch.equal(quantize_activation(values, args[1], bits, args[2], False, zero_point), ours[0])
    assert (ours[0].unique() / step - first).tolist() == list(range(levels + 1))


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_weight_at_bounds_and_ties(bits, narrow):
    """Dyadic scale; both ranges."""
    torch.manual_seed(bits)
    step, top = 2.0**-7, 2 ** (bits - 1) - 1
    values = grid(-top - 1, top, step)
    values = values[torch.randperm(len(values))].view(1, -1)
    upstream = torch.randn_like(values)
    args = (values, torch.tensor([step]))
    ours = run(lambda v, s: quantize_weight(v, s, bits, True, narrow), args, upstream)
    assert_agree(ours, run(weight_reference(bits, narrow, values.numel()), args, upstream))
    assert torch.equal(quantize_weight(values, args[1], bits, False, narrow), ours[0])
    assert (ours[0] / step).round().unique().tolist() == list(range(-top if narrow else -top - 1, top + 1))


def layouts():
    """Batches of the same values: contiguous, channels last, and two kinds of views with gaps."""
    torch.manual_seed(0)
    base = torch.randn(3, 8, 5, 7)
    wide = torch.zeros(3, 8, 5, 14)
    wide[..., ::2] = base
    sliced = torch.zeros(3, 16, 5, 7)
    sliced[:, :8] = base
    return {"contiguous": base, "channels_last": base.contiguous(memory_format=torch.channels_last),
            "strided": wide[..., ::2], "sliced": sliced[:, :8],
            "transposed": base.transpose(0, 3).contiguous().transpose(0, 3)}


@pytest.mark.parametrize("upstream_layout", ["contiguous", "channels_last", "expanded"])
@pytest.mark.parametrize("zero_point", ["float", "integer"])
@pytest.mark.parametrize("layout", layouts())
def test_activation_layouts(layout, zero_point, upstream_layout):
    """The count of the gradient factor is that of one sample; memory layout changes nothing."""
    x = layouts()[layout]
    upstream = torch.randn(x.shape)
    if upstream_layout == "channels_last":
        upstream = upstream.contiguous(memory_format=torch.channels_last)
    elif upstream_layout == "expanded":
        upstream = torch.randn(3, 8, 1, 1).expand(x.shape)
    args = (x, torch.tensor([0.0123]), torch.tensor([-0.7]))
    leaves = [x.detach().requires_grad_(), *(a.clone().requires_grad_() for a in args[1:])]
    out = quantize_activation(leaves[0], leaves[1], 8, leaves[2], True, zero_point)
    out.backward(upstream)
    ours = (out.detach(), *(leaf.grad for leaf in leaves))
    assert_agree(ours, run(activation_reference(8, zero_point, 8 * 5 * 7), args, upstream), exact_output=False)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("layout", layouts())
def test_weight_layouts(layout, bits):
    """Weights of any layout; some are clipped."""
    w = layouts()[layout]
    upstream = torch.randn(w.shape)
    args = (w, torch.tensor([3.0 / 2**bits]))
    ours = run(lambda v, s: quantize_weight(v, s, bits, True), args, upstream)
    assert_agree(ours, run(weight_reference(bits, True, w.numel()), args, upstream), exact_output=False)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 8, 5, 7), (16, 8, 1, 1), (4, 20)])
def test_layout_is_kept(shape, training):
    """Strides of output and gradient are the input's, so that convolutions keep their memory format."""
    x = torch.randn(shape)
    layouts = [x] if x.dim() == 2 or shape[2] == 1 else [x, x.contiguous(memory_format=torch.channels_last)]
    for x in layouts:
        x.requires_grad_()
        for out in (quantize_activation(x, torch.full((1,), 0.02), 8, torch.zeros(1), training),
                    quantize_weight(x, torch.full((1,), 0.02), 8, training)):
            assert out.stride() == x.stride()
            x.grad = None
            out.sum().backward()
            assert x.grad.stride() == x.stride()


def test_negative_scale():
    """Only the magnitude of a scale acts; its gradient turns with its sign."""
    x, upstream = torch.randn(2, 50), torch.randn(2, 50)
    args = (x, torch.tensor([-0.02]), torch.tensor([-0.3]))
    for zero_point in ("float", "integer"):
        ours = run(lambda v, s, b, z=zero_point: quantize_activation(v, s, 8, b, True, z), args, upstream)
        assert_agree(ours, run(activation_reference(8, zero_point, 50), args, upstream), exact_output=False)
    ours = run(lambda v, s: quantize_weight(v, s, 8, True), args[:2], upstream)
    assert_agree(ours, run(weight_reference(8, True, 100), args[:2], upstream), exact_output=False)


def test_no_gradient_is_asked_for():
    """A frozen scale or offset (or an image as input) is no obstacle."""
    x = torch.randn(2, 9)
    scale, beta = torch.tensor([0.1], requires_grad=True), torch.tensor([0.0])
    quantize_activation(x, scale, 8, beta, True).sum().backward()
    assert x.grad is None
    assert beta.grad is None
    assert scale.grad is not None


X = [[-1, -0.3, 0.0137, 0.2564, 0.5042, 2.9]]


def test_checked_activation_values():
    """spaceevo_details.md C.2: one sample, upstream 1 to 6."""
    args = (torch.tensor(X), torch.tensor([0.01]), torch.tensor([-0.2]))
    out, dx, ds, dbeta = run(lambda v, s, b: quantize_activation(v, s, 8, b, True, "float"), args,
                             torch.arange(1.0, 7).view(1, 6))
    torch.testing.assert_close(out, torch.tensor([[-0.2, -0.2, 0.01, 0.26, 0.5, 2.35]]))
    assert ds.item() == pytest.approx(39.06996, rel=1e-6)
    assert dbeta.item() == pytest.approx(0.2300895, rel=1e-6)
    assert dx.tolist() == [[0, 0, 3, 4, 5, 0]]


def test_checked_weight_values():
    """spaceevo_details.md C.2, in the published full range."""
    out, dx, ds = run(lambda v, s: quantize_weight(v, s, 8, True, narrow_range=False),
                      (torch.tensor(X), torch.tensor([0.004])), torch.arange(1.0, 7).view(1, 6))
    torch.testing.assert_close(out, torch.tensor([[-0.512, -0.3, 0.012, 0.256, 0.504, 0.508]]))
    assert ds.item() == pytest.approx(22.89766, rel=1e-6)
    assert dx.tolist() == [[0, 2, 3, 4, 5, 0]]


@pytest.mark.parametrize("training", [True, False])
def test_golden_units(shared_json, training):
    """Recorded outputs and gradients of the published code; its activation scale gradient is 0 but for rounding."""
    golden = shared_json("facts", "golden_units.json")
    inputs = golden["inputs"]
    x, upstream = torch.tensor(inputs["x"]), torch.arange(1.0, 7).view(1, 6)
    args = (x, torch.tensor([inputs["act"]["s"]]), torch.tensor([inputs["act"]["beta"]]))
    weight_args = (x, torch.tensor([inputs["weight"]["s"]]))

    def activation(v, s, b):
        return quantize_activation(v, s, 8, b, training, "float")

    def weight(v, s):
        return quantize_weight(v, s, 8, training, narrow_range=False)

    expected, expected_weight = golden[f"act_train{training}"], golden[f"weight_train{training}"]
    torch.testing.assert_close(activation(*args), torch.tensor(expected["out"]), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(weight(*weight_args), torch.tensor(expected_weight["out"]), rtol=1e-6, atol=1e-7)
    if training:
        _, dx, ds, dbeta = run(activation, args, upstream)
        assert dx.tolist() == expected["gv"]
        assert dbeta.item() == pytest.approx(expected["gbeta"][0], rel=1e-6)
        assert ds.item() == pytest.approx(0, abs=1e-5)
        _, dw, ds = run(weight, weight_args, upstream)
        assert dw.tolist() == expected_weight["gv"]
        assert ds.item() == pytest.approx(expected_weight["gs"][0], rel=1e-6)


def test_32_bits_is_off():
    """The same object comes back, in training and in evaluation."""
    x, one = torch.randn(2, 3), torch.ones(1)
    for training in (True, False):
        assert quantize_activation(x, one, 32, one, training) is x
        assert quantize_weight(x, one, 32, training) is x


def test_what_is_kept_for_the_backward_pass():
    """Beyond the scalars only the input and the output, which the neighbouring layers keep anyway."""
    for quantize in (lambda x, s: quantize_activation(x, s, 8, s * 0, True),
                     lambda x, s: quantize_weight(x, s, 8, True)):
        kept = []
        x = torch.randn(2, 8, 4, 4, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            out = quantize(x, torch.full((1,), 0.1, requires_grad=True))
        assert {t.data_ptr() for t in kept if t.numel() > 1} == {x.data_ptr(), out.data_ptr()}


def in_form(form, function, *args):
    """`function(*args)` with one form of the passes over the elements."""
    use_form(form)
    try:
        return function(*args)
    finally:
        use_form(LOOPS)


def assert_as_operations(form, x):
    """The values of the form are those of the operations, and its gradients to the rounding of their sums."""
    args, upstream = (x, torch.tensor([0.0123]), torch.tensor([-0.7])), torch.randn(x.shape)
    for quantize in (lambda v, s, b: quantize_activation(v, s, 8, b, True),
                     lambda v, s, b: quantize_activation(v, s, 8, b, True, "float"),
                     lambda v, s, b: quantize_weight(v, s, 6, True) + 0 * b):
        plain, other = in_form(OPERATIONS, run, quantize, args, upstream), in_form(form, run, quantize, args, upstream)
        for a, b in zip(plain[:2], other[:2], strict=True):
            assert a.equal(b)
            assert a.stride() == b.stride()
        for a, b in zip(plain[2:], other[2:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for evaluate in (lambda v, s, b: quantize_activation(v, s, 8, b, False),
                     lambda v, s, b: quantize_weight(v, s, 6, False)):
        assert in_form(OPERATIONS, evaluate, *args).equal(in_form(form, evaluate, *args))


@pytest.mark.slow
def test_compiled():
    """The opt-in compiled form, with few graphs for all shapes and layouts."""
    graphs = torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()
    graphs.clear()
    for x in (*layouts().values(), torch.randn(4, 20), torch.randn(1, 16, 1, 1), torch.randn(2, 32, 40, 40)):
        assert_as_operations(COMPILED, x)
    assert 3 <= graphs["unique_graphs"] <= 12


def test_loops():
    """In all layouts, and with more elements than a block of a sum or an odd number of them."""
    for x in (*layouts().values(), torch.randn(1, 1), torch.randn(3, 1369), torch.randn(2, 32, 40, 40)):
        assert_as_operations(LOOPS, x)


def test_loops_keep_what_is_not_a_number():
    """A diverged training must stay visible; infinity is clipped."""
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]])
    for zero_point in ("integer", "float"):
        y = quantize_activation(x, torch.tensor([0.1]), 8, torch.tensor([-1.0]), False, zero_point)
        torch.testing.assert_close(y, torch.tensor([[float("nan"), 24.5, -1.0, 1.0]]), equal_nan=True)
    assert quantize_weight(x, torch.tensor([0.1]), 8, False)[0, 0].isnan()


def test_sums_do_not_depend_on_the_place_in_memory():
    """The same to the bit wherever the vectors lie, side by side or apart: runs repeat."""
    loops = compiled("loops")
    rng = np.random.default_rng(0)
    for n in (9, 1000, 4097, 30000):
        u, x = rng.standard_normal((2, n), np.float32)
        y, found = x.round(1), set()
        for start, gap in ((0, 0), (0, 1), (3, 5), (8, 0), (1, 5000)):
            memory = np.zeros(start + 4 * (n + gap), np.float32)
            places = [memory[start + i * (n + gap):][:n] for i in range(4)]
            for place, values in zip(places, (u, x, y), strict=False):
                place[:] = values
            found.add(loops.gradient_sums(*places[:3], np.float32(-1), np.float32(1), places[3]))
        assert len(found) == 1


def test_loops_are_vectorised():
    """They take a third of the time of the operations; a loop that is not vectorised takes more than they do."""
    x, u = torch.randn(2, 2**21, generator=torch.Generator().manual_seed(0))
    args, best = (u, x, x.round(decimals=1), np.float32(-1), np.float32(1)), {}

    def looped(u, x, y, low, high):
        dx = torch.empty_like(u)
        return dx, *compiled("loops").gradient_sums(*(v.numpy() for v in (u, x, y)), low, high, dx.numpy())

    for _ in range(7):
        for form, passes in ((OPERATIONS, fake_quant._gradient_sums), (LOOPS, looped)):
            start = time.process_time()
            in_form(form, passes, *args)
            best[form] = min(time.process_time() - start, best.get(form, 1e9))
    assert best[LOOPS] < best[OPERATIONS]


def test_sums_of_many_elements_are_exact_to_float32():
    """The gradients of scale and offset over four million elements, against float64."""
    x = torch.rand(1, 2**22, generator=torch.Generator().manual_seed(0)) * 4
    args, upstream = (x, torch.tensor([0.01]), torch.tensor([0.0])), torch.rand(x.shape)
    ours = run(lambda v, s, b: quantize_activation(v, s, 8, b, True), args, upstream)
    reference = run(activation_reference(8, "integer", x.numel()), args, upstream.double())
    for a, b in zip(ours[2:], reference[2:], strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-6, atol=0)


def test_without_numba(monkeypatch):
    """The operations of torch take the place of the loops."""
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("loops", "half"):
        monkeypatch.delitem(sys.modules, f"modules.modeling.ops.{name}", raising=False)
        monkeypatch.delattr(ops, name, raising=False)
    compiled.cache_clear()
    try:
        assert fake_quant._loops(torch.zeros(3)) is None
        assert_as_operations(LOOPS, torch.randn(2, 3, 4, 4))
    finally:
        compiled.cache_clear()


def test_which_tensors_go_through_the_loops():
    """Those on a CPU through which no gradient is wanted; with several threads the small ones."""
    before = torch.get_num_threads()
    try:
        for threads, length, through in ((1, 2**18, True), (2, 2**18, False), (2, 9, True)):
            torch.set_num_threads(threads)
            assert (fake_quant._loops(torch.zeros(length)) is not None) == through
    finally:
        torch.set_num_threads(before)
    assert fake_quant._loops(torch.zeros(9, requires_grad=True)) is None
    assert fake_quant._loops(torch.zeros(9, device="meta")) is None


@pytest.mark.parametrize("zero_point", ["integer", "float"])
def test_bf16_tensors_are_quantised_in_fp32(zero_point):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 5, 5, generator=generator).bfloat16()
    upstream = torch.randn(4, 8, 5, 5, generator=generator).bfloat16()
    results = []
    for tensor in (x, x.float()):
        leaves = [tensor.clone().requires_grad_(), torch.tensor([0.013], requires_grad=True),
                  torch.tensor([-1.1], requires_grad=True)]
        y = quantize_activation(leaves[0], leaves[1], 8, leaves[2], True, zero_point)
        assert y.dtype == tensor.dtype
        results.append((y, *torch.autograd.grad(y, leaves, upstream.to(tensor.dtype))))
    (y, dx, ds, db), (y32, dx32, ds32, db32) = results
    assert torch.equal(y, y32.bfloat16())
    assert torch.equal(dx, dx32.bfloat16())
    assert ds.dtype == db.dtype == torch.float32
    torch.testing.assert_close((ds, db), (ds32, db32))


@pytest.mark.parametrize("strides", [(40, 1, 40, 40), (40, 1, 1, 1)])
def test_the_layout_of_a_map_of_one_pixel_is_kept(strides):
    x = torch.randn(3 * 40).as_strided((3, 40, 1, 1), strides)
    for training in (True, False):
        y = quantize_activation(x.requires_grad_(training), torch.tensor([0.02]), 8, torch.tensor([-1.0]), training)
        assert y.stride() == strides
    weight = torch.randn(24 * 40).as_strided((24, 40, 1, 1), strides)
    assert quantize_weight(weight.requires_grad_(), torch.tensor([0.02]), 8, True).stride() == strides
