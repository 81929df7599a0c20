"""PyTorch as a contender: one request a line on stdin, one reply a line on stdout (protocol.ts)."""
import json
import math
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
EPS = 1e-5
calls = {}


def shaped(case, values):
    tensor = values.view(case["shape"])
    if case["layout"] == "channels-first" or len(case["shape"]) == 2 or is_of_places(case):
        return tensor
    # PyTorch sees NCHW dimensions; the memory stays as it is.
    return tensor.movedim(-1, 1)


def is_of_places(case):
    """Of the last dimensions, wherever others have their channels."""
    return "norm" in case and case["norm"]["name"] in ("layer", "RMS")


def dtype_of(case):
    return torch.float32 if case["dtype"] == "float32" else torch.float64


def values_for(case, size):
    skipped = case["offset"] // (4 if case["dtype"] == "float32" else 8)
    return (torch.rand(size + skipped, dtype=dtype_of(case)) - 0.5)[skipped:]


def statistics(case):
    dtype = dtype_of(case)
    return torch.zeros(case["channels"], dtype=dtype), torch.ones(case["channels"], dtype=dtype)


def weights_for(case):
    """As contender.ts has them, with the channels where PyTorch sees them."""
    samples, space = case["shape"][0], [d for d in case["shape"][1:]]
    del space[0 if case["layout"] == "channels-first" else -1]
    if case["counts"] == "weights":
        return torch.rand([samples, 1, *space])
    length = math.prod(space)
    ends = torch.tensor([math.ceil(length * (samples + n) / (2 * samples - 1)) for n in range(samples)])
    return (torch.arange(length) < ends[:, None]).float().view(samples, 1, *space)


def by_channel(values, x):
    return values.view(1, -1, *[1] * (x.dim() - 2))


class Counting:
    """Training by hand, of weights or of missing values, for which PyTorch has no batch norm."""

    def __init__(self, x, weights, weight, bias):
        self.x, self.weights, self.bias = x, weights, by_channel(bias, x)
        self.weight = by_channel(weight, x)
        self.dims = [d for d in range(x.dim()) if d != 1]

    def sum(self, values):
        return values.sum(self.dims, keepdim=True)

    def forward(self):
        if self.weights is None:
            self.missing = self.x.isnan()
            self.total = self.sum(~self.missing)
            self.mean = self.x.nansum(self.dims, keepdim=True) / self.total
            centred = (self.x - self.mean).masked_fill(self.missing, 0)
            variance = self.sum(centred * centred) / self.total
        else:
            self.total = self.weights.sum()
            self.mean = self.sum(self.x * self.weights) / self.total
            centred = self.x - self.mean
            variance = self.sum(centred * centred * self.weights) / self.total
        self.invstd = torch.rsqrt(variance + EPS)
        return centred * (self.invstd * self.weight) + self.bias

    def backward(self, dy):
        n = (self.x - self.mean) * self.invstd
        bias = self.sum(dy)
        if self.weights is None:
            n.masked_fill_(self.missing, 0)
            kept = dy.masked_fill(self.missing, 0)
            weight = self.sum(kept * n)
            inner = kept - (self.sum(kept) + n * weight) / self.total
            dx = (inner * (self.weight * self.invstd)).masked_fill(self.missing, 0)
        else:
            weight = self.sum(dy * n)
            dx = (dy - self.weights / self.total * (bias + n * weight)) * (self.weight * self.invstd)
        return dx, weight, bias


def prepare_counting(case, x, dy, weight, bias):
    if case["counts"] == "missing":
        x.masked_fill_(torch.rand(x.shape) < 0.01, float("nan"))
    weights = None if case["counts"] == "missing" else weights_for(case).to(x.dtype)
    training, trained = (Counting(x, weights, weight, bias) for _ in range(2))
    trained.forward()
    calls["training"] = training.forward
    calls["backward"] = lambda: trained.backward(dy)


def prepare_storage(case):
    """Tensors of 16 bits beside parameters of 32, pictures as torchvision's transforms do it, and conversions."""
    storage = case["storage"]
    size = case["outer"] * case["channels"] * case["inner"]
    if storage == "pictures":
        pixels = (torch.arange(size) * 2654435761 >> 24).to(torch.uint8).view(case["shape"])
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        planes = lambda: pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
        calls["inference"] = lambda: planes().sub_(mean).div_(std)
    elif storage == "encode":
        values = torch.rand(size)
        calls["inference"] = lambda: values.to(torch.bfloat16)
    elif storage == "decode":
        values = torch.rand(size).to(torch.bfloat16)
        calls["inference"] = lambda: values.to(torch.float32)
    else:
        dtype = torch.bfloat16 if storage == "bfloat16" else torch.float16
        x, dy = (shaped(case, values_for(case, size)).to(dtype) for _ in range(2))
        weight, bias = values_for(case, case["channels"]), values_for(case, case["channels"])
        prepare_passes(case, x, dy, weight, bias)


class Norm:
    """Group, instance, layer and RMS norm. Those that have no operator for backward go through autograd."""

    def __init__(self, case, x, weight, bias):
        self.x, self.weight, self.bias = x, weight, bias
        self.name, self.groups = case["norm"]["name"], case["norm"]["groups"]
        self.places = [case["channels"]]

    def sizes(self):
        samples, channels = self.x.shape[:2]
        return samples, channels, self.x[0, 0].numel(), self.groups

    def forward(self):
        """y, and of group and layer norm the mean and 1 / sqrt(variance + eps) of each row."""
        if self.name == "group":
            return torch.native_group_norm(self.x, self.weight, self.bias, *self.sizes(), EPS)
        if self.name == "layer":
            return torch.native_layer_norm(self.x, self.places, self.weight, self.bias, EPS)
        if self.name == "RMS":
            return (torch.rms_norm(self.x, self.places, self.weight, EPS),)
        return (torch.instance_norm(self.x, self.weight, self.bias, None, None, True, 0.1, EPS, False),)

    def backward_of(self, dy):
        """Of a forward that this does."""
        every = [True, True, True]
        if self.name in ("group", "layer"):
            _, mean, invstd = self.forward()
            if self.name == "group":
                call = torch.ops.aten.native_group_norm_backward
                return lambda: call(dy, self.x, mean, invstd, self.weight, *self.sizes(), every)
            call = torch.ops.aten.native_layer_norm_backward
            return lambda: call(dy, self.x, self.places, mean, invstd, self.weight, self.bias, every)
        learned = [self.weight] if self.name == "RMS" else [self.weight, self.bias]
        inputs = [tensor.requires_grad_() for tensor in [self.x, *learned]]
        with torch.enable_grad():
            (y,) = self.forward()
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def prepare_norm(case, x, dy, weight, bias):
    calls["inference"] = calls["training"] = Norm(case, x, weight, bias).forward
    calls["backward"] = Norm(case, x.detach().clone(), weight.clone(), bias.clone()).backward_of(dy)


def prepare(case):
    calls.clear()
    if "storage" in case:
        prepare_storage(case)
        return {"ready": True}
    size = case["outer"] * case["channels"] * case["inner"]
    x = shaped(case, values_for(case, size))
    dy = shaped(case, values_for(case, size))
    weight, bias = values_for(case, case["channels"]), values_for(case, case["channels"])
    if "norm" in case:
        prepare_norm(case, x, dy, weight, bias)
        return {"ready": True}
    if "counts" in case:
        prepare_counting(case, x, dy, weight, bias)
        return {"ready": True}
    prepare_passes(case, x, dy, weight, bias)
    return {"ready": True}


def prepare_passes(case, x, dy, weight, bias):
    mean, variance = statistics(case)
    calls["inference"] = lambda: torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.1, EPS)
    if case["outer"] * case["inner"] == 1:
        return
    running_mean, running_var = statistics(case)
    calls["training"] = lambda: torch.native_batch_norm(
        x, weight, bias, running_mean, running_var, True, 0.1, EPS
    )
    _, saved_mean, saved_invstd = calls["training"]()
    calls["backward"] = lambda: torch.ops.aten.native_batch_norm_backward(
        dy, x, weight, mean, variance, saved_mean, saved_invstd, True, EPS, [True, True, True]
    )


def repeat(call, repetitions):
    start = time.perf_counter_ns()
    for _ in range(repetitions):
        call()
    return (time.perf_counter_ns() - start) / repetitions


def measure(name, milliseconds):
    call = calls.get(name)
    if call is None:
        return {}
    once = min(repeat(call, 1), repeat(call, 1))
    repetitions = max(1, math.ceil(20_000 / once))
    samples = []
    end = time.perf_counter_ns() + milliseconds * 1e6
    while not samples or time.perf_counter_ns() < end:
        samples.append(repeat(call, repetitions))
    return {"samples": samples}


def train(case, source, target):
    size = case["outer"] * case["channels"] * case["inner"]
    count = size // case["channels"]
    x = shaped(case, torch.from_file(source, size=size, dtype=dtype_of(case)))
    mean, variance = statistics(case)
    ones = torch.ones_like(mean)
    if "norm" in case:
        y, _, invstd = Norm(case, x, ones, torch.zeros_like(ones)).forward()
        shaped(case, torch.from_file(target, shared=True, size=size, dtype=dtype_of(case))).copy_(y)
        return {"ready": True, "variance": (invstd.double().flatten() ** -2 - EPS).tolist()}
    y, _, _ = torch.native_batch_norm(x, ones, torch.zeros_like(ones), mean, variance, True, 1.0, EPS)
    shaped(case, torch.from_file(target, shared=True, size=size, dtype=dtype_of(case))).copy_(y)
    # The running variance is the unbiased one.
    return {"ready": True, "variance": (variance.double() * (count - 1) / count).tolist()}


def answer(request):
    if "prepare" in request:
        return prepare(request["prepare"])
    if "measure" in request:
        return measure(request["measure"], request["milliseconds"])
    return train(request["train"], request["x"], request["y"])


with torch.no_grad():
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # The benchmark says which library failed, and goes on.
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)
