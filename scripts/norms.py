"""Writes test/support/norms.json: what PyTorch, Keras 3 and ONNX make of group, instance, layer and RMS norm.

    python3 -m pip install torch==2.15.0 keras==3.15.1 onnx==1.23.2 numpy==2.4.6 expecttest
    python3 scripts/norms.py

PyTorch's are its own sample inputs, those that it refuses too, in float64, with the gradients by autograd for a dy at random;
Keras' are layers on numbers at random, likewise but in float32, in which it computes on PyTorch whatever the dtype; ONNX' are
its backend test data, in float32, without gradients, and without the "expanded" ones, whose numbers are the same. A number that is absent is the default of the framework. Arrays are the bytes
of their values, little-endian, in base64.
"""

import base64
import json
import os
import subprocess

os.environ['KERAS_BACKEND'] = 'torch'

import keras
import numpy
import onnx
import torch
from onnx.backend.test.loader import load_model_tests
from torch.testing._internal.common_methods_invocations import op_db

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
TARGET = os.path.join('test', 'support', 'norms.json')


def array(values):
    if values is None:
        return None
    if torch.is_tensor(values):
        values = values.detach().cpu().numpy()
    return base64.b64encode(numpy.ascontiguousarray(values).tobytes()).decode()


def case(by, name, kind, shape, **rest):
    return {'by': by, 'name': name, 'kind': kind, 'shape': list(shape)} | {
        key: value for key, value in rest.items() if value is not None
    }


def gradients(y, dy, **inputs):
    """Of those inputs that there are, by the names of their gradients."""
    there = {name: value for name, value in inputs.items() if value is not None}
    found = torch.autograd.grad(y, list(there.values()), dy)
    return {f'd{name[0].upper()}{name[1:]}' if name != 'x' else 'dx': array(one) for name, one in zip(there, found)}


FUNCTIONS = {
    'nn.functional.group_norm': ('group', ['groups', 'weight', 'bias', 'eps']),
    'nn.functional.instance_norm': ('instance', []),
    'nn.functional.layer_norm': ('layer', ['over', 'weight', 'bias', 'eps']),
    # Its error inputs are those that layer_norm has not.
    'native_layer_norm': ('layer', ['over', 'weight', 'bias', 'eps']),
    'nn.functional.rms_norm': ('rms', ['over', 'weight', 'eps']),
}


def options(names, sample):
    """The arguments of a sample by our names."""
    given = dict(zip(names, sample.args)) | sample.kwargs
    if 'over' in given:
        given['over'] = list(given['over'])
    return given


def with_pytorch():
    torch.manual_seed(21)
    for op in op_db:
        if op.name not in FUNCTIONS:
            continue
        kind, names = FUNCTIONS[op.name]
        short = op.name.split('.')[-1]
        if op.name != 'native_layer_norm':
            for index, sample in enumerate(op.sample_inputs('cpu', torch.float64, requires_grad=True)):
                given = options(names, sample)
                x = sample.input
                running = {
                    ours: given.pop(theirs).detach().clone()
                    for ours, theirs in [('runningMean', 'running_mean'), ('runningVar', 'running_var')]
                    if theirs in given
                }
                before = {key: array(value) for key, value in running.items()}
                after = {
                    'running_mean': running.get('runningMean'),
                    'running_var': running.get('runningVar'),
                } if running else {}
                y = op(x, *sample.args, **(sample.kwargs | after))
                dy = torch.randn_like(y)
                weight, bias = given.pop('weight', None), given.pop('bias', None)
                yield case(
                    'pytorch',
                    f'{short} {index}',
                    kind,
                    x.shape,
                    dtype='float64',
                    **{key: value for key, value in given.items() if key != 'use_input_stats'},
                    x=array(x),
                    weight=array(weight),
                    bias=array(bias),
                    **before,
                    y=array(y),
                    dy=array(dy),
                    **gradients(y, dy, x=x, weight=weight, bias=bias),
                    **{f'new{key[0].upper()}{key[1:]}': array(value) for key, value in running.items()},
                )
        if op.error_inputs_func is None:
            continue
        for index, error in enumerate(op.error_inputs('cpu')):
            given = options(names, error.sample_input)
            yield case(
                'pytorch',
                f'{short}, refused {index}',
                kind,
                error.sample_input.input.shape,
                dtype='float32',
                refusal=error.error_regex,
                **{key: list(value.shape) if torch.is_tensor(value) else value for key, value in given.items()},
            )


# Kind, shape, options of the layer; the axis is that of the channels, or those that are normalized.
LAYERS = [
    ('group', (3, 5, 6), {'groups': 2}),
    ('group', (2, 3, 4, 8), {'groups': 4, 'epsilon': 0.01}),
    ('group', (2, 6, 5), {'groups': 3, 'axis': 1}),
    ('group', (2, 4, 9), {'groups': 1, 'axis': 1, 'scale': False}),
    ('group', (4, 6), {'groups': 2, 'center': False}),
    ('group', (2, 3, 3, 6), {'groups': 6, 'axis': 3, 'scale': False, 'center': False}),
    ('group', (2, 5, 4, 3), {'groups': 2, 'axis': 2}),
    ('instance', (2, 7, 5), {'groups': -1}),
    ('instance', (2, 5, 3, 3), {'groups': -1, 'axis': 1, 'epsilon': 1e-5}),
    ('layer', (5, 9), {}),
    ('layer', (2, 4, 6), {'axis': -1, 'epsilon': 1e-6}),
    ('layer', (2, 3, 5), {'axis': [1, 2]}),
    ('layer', (2, 3, 4, 2), {'axis': [-3, -2, -1], 'scale': False}),
    ('layer', (3, 7), {'center': False}),
    ('layer', (1, 1, 8), {'scale': False, 'center': False}),
    ('rms', (5, 9), {}),
    ('rms', (2, 3, 6), {'epsilon': 0.001}),
    ('rms', (2, 3, 5), {'axis': [1, 2]}),
]
KERAS = {
    'group': keras.layers.GroupNormalization,
    'instance': keras.layers.GroupNormalization,
    'layer': keras.layers.LayerNormalization,
    'rms': keras.layers.RMSNormalization,
}


def with_keras():
    random = numpy.random.default_rng(21)
    for index, (kind, shape, settings) in enumerate(LAYERS):
        layer = KERAS[kind](**settings)
        layer.build(shape)
        for variable in layer.weights:
            variable.assign(random.normal(1, 0.5, variable.shape))
        weight = layer.gamma if kind in ('group', 'instance', 'layer') else layer.scale
        bias = getattr(layer, 'beta', None)
        weight, bias = [None if one is None else one.value for one in (weight, bias)]
        x = torch.from_numpy(random.normal(2, 3, shape).astype('float32')).requires_grad_()
        y = layer(x)
        dy = torch.from_numpy(random.normal(0, 1, shape).astype('float32'))
        if kind in ('layer', 'rms'):
            axes = numpy.atleast_1d(settings.get('axis', -1))
            where = {'over': list(shape[len(shape) - len(axes) :])}
        else:
            where = {'axis': settings.get('axis', -1)}
            if kind == 'group':
                where['groups'] = settings['groups']
        yield case(
            'keras',
            f'{type(layer).__name__} {index}',
            kind,
            shape,
            dtype='float32',
            **where,
            eps=settings.get('epsilon'),
            x=array(x),
            weight=array(weight),
            bias=array(bias),
            y=array(y),
            dy=array(dy),
            **gradients(y, dy, x=x, weight=weight, bias=bias),
        )


OPERATORS = {
    'GroupNormalization': 'group',
    'InstanceNormalization': 'instance',
    'LayerNormalization': 'layer',
    'RMSNormalization': 'rms',
}


def with_onnx():
    for test in load_model_tests(kind='node'):
        if 'expanded' in test.name:
            continue
        node = test.model.graph.node[0]
        if node.op_type not in OPERATORS:
            continue
        kind = OPERATORS[node.op_type]
        given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        [(inputs, outputs)] = test.data_sets
        x, weight, bias = [*inputs, None, None][:3]
        over = None
        if kind in ('layer', 'rms'):
            axis = given.get('axis', -1)
            over = list(x.shape[axis:])
        yield case(
            'onnx',
            test.name,
            kind,
            x.shape,
            dtype=str(x.dtype),
            groups=given.get('num_groups'),
            over=over,
            eps=None if 'epsilon' not in given else float(f'{given["epsilon"]:.6g}'),
            x=array(x),
            weight=array(weight),
            bias=array(bias),
            y=array(outputs[0]),
        )


cases = [*with_pytorch(), *with_keras(), *with_onnx()]
os.chdir(ROOT)
with open(TARGET, 'w', encoding='utf-8') as file:
    json.dump(cases, file)
subprocess.run(['npx', 'biome', 'format', '--write', TARGET], check=True)
print(f'pytorch {torch.__version__}, keras {keras.__version__}, onnx {onnx.__version__}: {len(cases)} cases')
