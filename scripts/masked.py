"""Writes test/support/masked.json: what Keras 3 and Flax make of masked batches, in doubles.

    python3 -m pip install keras==3.15.1 flax==0.12.8 jax==0.10.2 scipy
    python3 scripts/masked.py

Where a mask lets nothing through, or there is one channel, they are not right (0, NaN, an error): such cases are not here.
"""

import os
import textwrap

os.environ['KERAS_BACKEND'] = 'numpy'
os.environ['JAX_ENABLE_X64'] = '1'

import flax.linen
import jax
import keras
import numpy

TARGET = os.path.join(os.path.dirname(__file__), '..', 'test', 'support', 'masked.json')
WIDTH = 110

# Shape, mean of the input, share of what a mask lets through.
CASES = [((7, 3), 0, 0.6), ((3, 5, 4), 3, 0.7), ((2, 3, 4, 2), -20, 0.3), ((2, 2, 3, 2, 2), 1, 0.9), ((4, 3, 2), 5, 0.08)]


def parameters(random, channels):
    return {
        'weight': random.normal(1, 0.5, channels).round(3),
        'bias': random.normal(0, 1, channels).round(3),
        'runningMean': random.normal(0, 1, channels).round(3),
        'runningVar': random.uniform(0.5, 2, channels).round(3),
    }


def with_keras(x, mask, given, momentum, eps):
    layer = keras.layers.BatchNormalization(momentum=momentum, epsilon=eps, dtype='float64')
    layer.build(x.shape)
    layer.set_weights([given['weight'], given['bias'], given['runningMean'], given['runningVar']])
    y = layer(x, training=True, mask=mask)
    return y, layer.moving_mean, layer.moving_variance


def with_flax(x, mask, given, momentum, eps):
    layer = flax.linen.BatchNorm(
        momentum=momentum, epsilon=eps, use_running_average=False, use_fast_variance=False, dtype=x.dtype
    )
    variables = {
        'params': {'scale': given['weight'], 'bias': given['bias']},
        'batch_stats': {'mean': given['runningMean'], 'var': given['runningVar']},
    }
    y, updated = layer.apply(variables, x, mask=mask[..., None], mutable=['batch_stats'])
    return y, updated['batch_stats']['mean'], updated['batch_stats']['var']


def made():
    random = numpy.random.default_rng(19)
    for shape, mean, share in CASES:
        x = random.normal(mean, 2, shape).round(3)
        mask = random.uniform(size=shape[:-1]) < share
        # At least one step.
        mask.flat[0] = True
        given = parameters(random, shape[-1])
        for name, layer, momentum, eps in [('keras', with_keras, 0.99, 1e-3), ('flax', with_flax, 0.9, 1e-5)]:
            y, running_mean, running_var = layer(x, mask, given, momentum, eps)
            yield {
                'by': name,
                'shape': shape,
                'decay': momentum,
                'eps': eps,
                'x': x,
                'mask': mask.astype(int),
                **given,
                'y': y,
                'newRunningMean': running_mean,
                'newRunningVar': running_var,
            }


def literal(value):
    """As JavaScript writes it."""
    if isinstance(value, int):
        return str(value)
    rounded = float(f'{value:.10g}')
    return str(int(rounded)) if rounded == int(rounded) else str(rounded).replace('e-0', 'e-')


def line(name, value):
    """As Biome formats it."""
    if isinstance(value, str):
        return f'    "{name}": "{value}"'
    if isinstance(value, float):
        return f'    "{name}": {literal(value)}'
    numbers = ', '.join(literal(number) for number in numpy.asarray(value).ravel().tolist())
    short = f'    "{name}": [{numbers}]'
    if len(short) < WIDTH:
        return short
    filled = textwrap.fill(numbers, WIDTH, initial_indent=' ' * 6, subsequent_indent=' ' * 6)
    return f'    "{name}": [\n{filled}\n    ]'


with open(TARGET, 'w', encoding='utf-8') as file:
    cases = ['  {\n' + ',\n'.join(line(*entry) for entry in case.items()) + '\n  }' for case in made()]
    file.write('[\n' + ',\n'.join(cases) + '\n]\n')
print(f'keras {keras.__version__}, flax {flax.__version__}, jax {jax.__version__}: {len(cases)} cases')
