// Layers of TensorFlow.js that are not to be trained, alone, in containers and in containers of containers.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { install, uninstall } from '../../lib/tfjs/index.js';
import { Random } from '../support/random.js';
import { expectClose, largest } from '../support/tensors.js';
import { eachBackend, randomTensor, tf, valuesOf } from '../support/tfjs.js';

type Layer = ReturnType<typeof tf.layers.batchNormalization>;

const inputShape = [3];

interface Parts {
  scale: boolean;
  center: boolean;
}
const whole: Parts = { scale: true, center: true };
const parts: Parts[] = [whole, { scale: true, center: false }, { scale: false, center: false }];

const makeNorm = ({ scale, center } = whole): Layer =>
  tf.layers.batchNormalization({ inputShape, scale, center });

/** Gives a layer, once it is in a model, parameters and statistics that are not those it starts with. */
function randomize(norm: Layer, random: Random): Layer {
  norm.setWeights(
    norm.weights.map(({ name }) =>
      name.includes('variance')
        ? tf.ones(inputShape).mul(random.uniform(0.5, 2))
        : randomTensor(random, inputShape, 1, 0.5),
    ),
  );
  return norm;
}

const dense = (units: number) => tf.layers.dense({ units });

function compile(model: tf.LayersModel): void {
  model.compile({ optimizer: tf.train.sgd(0.001), loss: 'meanSquaredError' });
}

const statesOf = (norm: Layer) => norm.getWeights().map(valuesOf);
const statisticsOf = (norm: Layer) => statesOf(norm).slice(-2);

/** A step of each kind, all of which change what may be trained. */
async function train(model: tf.LayersModel, random: Random): Promise<void> {
  const x = randomTensor(random, [8, ...(model.inputs[0].shape.slice(1) as number[])], 10, 3);
  const y = randomTensor(random, [8, 1]);
  await model.trainOnBatch(x, y);
  await model.fit(x, y, { epochs: 1, batchSize: 4, shuffle: false, verbose: 0 });
  tf.dispose([x, y]);
}

/** A container around a layer, as people make them: the norm in it, and the container put into a model. */
const containers: Record<string, (layer: tf.layers.Layer) => tf.LayersModel> = {
  'a Sequential': (layer) => tf.sequential({ layers: [layer] }),
  'a Sequential with a layer before': (layer) =>
    tf.sequential({ layers: [tf.layers.activation({ activation: 'linear', inputShape }), layer] }),
  'a functional model': (layer) => {
    const input = tf.input({ shape: inputShape });
    return tf.model({ inputs: input, outputs: layer.apply(input) as tf.SymbolicTensor });
  },
};
const models: Record<string, (inner: tf.LayersModel) => tf.LayersModel> = {
  'first in a Sequential': (inner) => tf.sequential({ layers: [inner, dense(1)] }),
  'later in a Sequential': (inner) =>
    tf.sequential({ layers: [tf.layers.dense({ units: 3, inputShape }), inner, dense(1)] }),
  'in a functional model': (inner) => {
    const input = tf.input({ shape: inputShape });
    const outputs = dense(1).apply(inner.apply(input)) as tf.SymbolicTensor;
    return tf.model({ inputs: input, outputs });
  },
  'whose output goes on': (inner) =>
    tf.model({ inputs: inner.inputs, outputs: dense(1).apply(inner.outputs[0]) as tf.SymbolicTensor }),
};
const places = Object.keys(containers).flatMap((container) =>
  Object.keys(models).map((model) => ({ container, model })),
);

const warn = vi.spyOn(console, 'warn').mockImplementation(() => {});
beforeEach(() => warn.mockClear());

/** What a training step of the frozen model with the target that it predicts costs: nothing, where it infers. */
async function lossOfItself(model: tf.LayersModel, random: Random): Promise<number> {
  const x = randomTensor(random, [8, ...(model.inputs[0].shape.slice(1) as number[])], 10, 3);
  const y = model.predict(x) as tf.Tensor;
  const loss = (await model.trainOnBatch(x, y)) as number;
  tf.dispose([x, y]);
  return loss;
}

/** `of`: whether gamma and beta, too, are left alone. */
async function expectFrozen(
  model: tf.LayersModel,
  norm: Layer,
  random: Random,
  of = statesOf,
): Promise<void> {
  const before = of(norm);
  expect(await lossOfItself(model, random)).toBeCloseTo(0, 9);
  await train(model, random);
  expect(of(norm)).toEqual(before);
}

async function expectMoving(model: tf.LayersModel, norm: Layer, random: Random): Promise<void> {
  const before = statisticsOf(norm);
  await train(model, random);
  statisticsOf(norm).forEach((values, i) => {
    expect(values).not.toEqual(before[i]);
  });
}

eachBackend('a batch norm that is not to be trained', () => {
  afterEach(() => {
    install(tf, { trainable: 'keras' });
    tf.disposeVariables();
  });

  it.each(parts)('infers in trainOnBatch and fit: %j', async (given) => {
    const random = new Random();
    const norm = makeNorm(given);
    norm.trainable = false;
    const model = tf.sequential({ layers: [norm, dense(1)] });
    compile(model);
    randomize(norm, random);
    await expectFrozen(model, norm, random);
    // What counts is the moment of the call.
    norm.trainable = true;
    await expectMoving(model, norm, random);
  });

  describe.each(places)('in $container that is frozen, $model', ({ container, model }) => {
    it.each(parts)('infers until the container is not: %j', async (given) => {
      const random = new Random();
      const norm = makeNorm(given);
      const inner = containers[container](norm);
      const outer = models[model](inner);
      compile(outer);
      randomize(norm, random);
      inner.trainable = false;
      await expectFrozen(outer, norm, random);
      inner.trainable = true;
      await expectMoving(outer, norm, random);
    });

    it.each(parts)('keeps its statistics if frozen before all is compiled: %j', async (given) => {
      const random = new Random();
      const norm = makeNorm(given);
      const inner = containers[container](norm);
      inner.trainable = false;
      const outer = models[model](inner);
      compile(outer);
      randomize(norm, random);
      await expectFrozen(outer, norm, random, statisticsOf);
    });
  });

  describe.each(places)('two deep in $container, $model', ({ container, model }) => {
    it.each(parts)('infers with the outer container frozen, until it is not: %j', async (given) => {
      const random = new Random();
      const norm = makeNorm(given);
      const outer = containers[container](containers[container](norm));
      const all = models[model](outer);
      compile(all);
      randomize(norm, random);
      outer.trainable = false;
      // Of what is compiled TensorFlow.js goes on to train gamma and beta.
      await expectFrozen(all, norm, random, statisticsOf);
      outer.trainable = true;
      await expectMoving(all, norm, random);
    });
  });

  it('is so as long as the container next to it is frozen', async () => {
    const random = new Random();
    const norm = makeNorm({ scale: false, center: false });
    const inner = containers['a functional model'](norm);
    const outer = containers['a functional model'](inner);
    const all = models['later in a Sequential'](outer);
    compile(all);
    randomize(norm, random);
    outer.trainable = false;
    inner.trainable = false;
    outer.trainable = true;
    await expectFrozen(all, norm, random);
    inner.trainable = true;
    await expectMoving(all, norm, random);
  });

  it('trains where it is told so after its container, as in Keras', async () => {
    const random = new Random();
    const norm = makeNorm();
    const inner = containers['a functional model'](norm);
    const all = models['later in a Sequential'](inner);
    compile(all);
    randomize(norm, random);
    inner.trainable = false;
    norm.trainable = true;
    await expectMoving(all, norm, random);
  });

  it('may be in a wrapper', async () => {
    const random = new Random();
    const norm = makeNorm({ scale: false, center: false });
    const steps = tf.layers.timeDistributed({ layer: norm, inputShape: [2, 3] });
    const inner = tf.sequential({ layers: [steps] });
    const all = tf.sequential({ layers: [inner, tf.layers.flatten({}), dense(1)] });
    compile(all);
    randomize(norm, random);
    inner.trainable = false;
    await expectFrozen(all, norm, random);
    inner.trainable = true;
    await expectMoving(all, norm, random);
  });

  it('leaves what TensorFlow.js says of trainable alone', () => {
    const read = () => {
      const norm = makeNorm();
      const inner = containers['a Sequential'](norm);
      const all = models['later in a Sequential'](inner);
      const said = () => [
        ...[norm, inner, all].map(({ trainable }) => trainable),
        ...[norm, inner, all].map(({ trainableWeights }) => trainableWeights.length),
        norm.getConfig().trainable,
      ];
      const before = said();
      inner.trainable = false;
      const frozen = said();
      inner.trainable = true;
      norm.trainable = false;
      return [before, frozen, said()];
    };
    const ours = read();
    uninstall();
    const stock = read();
    install(tf);
    expect(ours).toEqual(stock);
  });

  it('is not frozen by what its container was while nothing was installed', async () => {
    const random = new Random();
    const norm = makeNorm({ scale: false, center: false });
    const inner = containers['a functional model'](norm);
    const all = models['later in a Sequential'](inner);
    compile(all);
    randomize(norm, random);
    inner.trainable = false;
    uninstall();
    inner.trainable = true;
    install(tf);
    await expectMoving(all, norm, random);
  });

  it("does as TensorFlow.js has it with trainable: 'tfjs'", async () => {
    const moved = async () => {
      const random = new Random();
      const norm = makeNorm();
      const inner = containers['a functional model'](norm);
      const kernelInitializer = tf.initializers.ones();
      const all = tf.sequential({
        layers: [inner, tf.layers.dense({ units: 1, kernelInitializer })],
      });
      compile(all);
      randomize(norm, random);
      inner.trainable = false;
      await train(all, random);
      return statesOf(norm);
    };
    install(tf, { trainable: 'tfjs' });
    const ours = await moved();
    // Without the option what was chosen stays.
    install(tf);
    expect(await moved()).toEqual(ours);
    uninstall();
    const stock = await moved();
    install(tf);
    stock.forEach((weights, i) => {
      expectClose(ours[i], weights, 1e-5 * Math.max(1, largest(weights)), `weights ${i}`);
    });
    expect(await moved()).not.toEqual(ours);
  });
});

eachBackend('a discriminator that is frozen within its GAN', () => {
  afterEach(() => tf.disposeVariables());

  const norms: Record<string, (norm: Layer) => tf.layers.Layer> = {
    itself: (norm) => norm,
    'in a block': (norm) => containers['a Sequential'](norm),
    'in a block of a block': (norm) => containers['a Sequential'](containers['a functional model'](norm)),
  };
  const cases = parts.flatMap((given) => Object.keys(norms).map((deep) => ({ ...given, deep })));

  it.each(cases)('is still in its step, and learns in its own: %j', async ({ deep, ...given }) => {
    const random = new Random();
    const norm = makeNorm(given);
    const discriminator = tf.sequential({
      layers: [tf.layers.dense({ units: 3, inputShape }), norms[deep](norm), dense(1)],
    });
    const learning = makeNorm(given);
    const generator = tf.sequential({
      layers: [tf.layers.dense({ inputShape: [2], units: 3 }), learning],
    });
    discriminator.trainable = false;
    const gan = tf.sequential({ layers: [generator, discriminator] });
    compile(gan);
    discriminator.trainable = true;
    compile(discriminator);
    for (let step = 0; step < 2; step++) {
      discriminator.trainable = true;
      await expectMoving(discriminator, norm, random);
      discriminator.trainable = false;
      const before = discriminator.getWeights().map(valuesOf);
      await expectMoving(gan, learning, random);
      expect(discriminator.getWeights().map(valuesOf)).toEqual(before);
    }
  });
});

describe('what cannot be told, as docs/tfjs.md lists it:', () => {
  afterEach(() => {
    uninstall();
    tf.disposeVariables();
  });

  it.each([
    { deep: false, ...whole, moves: false },
    { deep: false, scale: false, center: false, moves: true },
    { deep: true, ...whole, moves: true },
  ])('a container that was frozen before install(): %j', async ({ deep, moves, ...given }) => {
    await tf.setBackend('cpu');
    const random = new Random();
    const norm = makeNorm(given);
    const inner = containers['a functional model'](norm);
    const frozen = deep ? containers['a functional model'](inner) : inner;
    const all = models['later in a Sequential'](frozen);
    compile(all);
    randomize(norm, random);
    frozen.trainable = false;
    install(tf);
    if (moves) await expectMoving(all, norm, random);
    // Said again, it is heard.
    frozen.trainable = false;
    await expectFrozen(all, norm, random, statisticsOf);
  });

  it('a container that was saved frozen, which TensorFlow.js does not write', async () => {
    await tf.setBackend('cpu');
    install(tf);
    const random = new Random();
    const inner = containers['a Sequential'](makeNorm());
    inner.trainable = false;
    const [loaded, norm] = await reloaded(models['first in a Sequential'](inner));
    compile(loaded);
    await expectMoving(loaded, norm, random);
  });

  it.each([
    ['of a model at the start of a Sequential that is compiled after it is frozen', false],
    ['two models deep in one that is frozen after it is compiled', true],
  ])('gamma and beta %s: TensorFlow.js trains them', async (_, deep) => {
    await tf.setBackend('cpu');
    const learned = async () => {
      const random = new Random();
      const norm = makeNorm();
      const inner = containers['a Sequential'](norm);
      const frozen = deep ? containers['a Sequential'](inner) : inner;
      if (!deep) frozen.trainable = false;
      const all = models['first in a Sequential'](frozen);
      compile(all);
      if (deep) frozen.trainable = false;
      const [gamma] = statesOf(norm);
      await train(all, random);
      return String(statesOf(norm)[0]) !== String(gamma);
    };
    expect(await learned()).toBe(true);
    install(tf);
    expect(await learned()).toBe(true);
  });

  it('a layer of the caller that is frozen, with a batch norm as a property', async () => {
    await tf.setBackend('cpu');
    install(tf);
    const random = new Random();
    const norm = makeNorm();
    class Block extends tf.layers.Layer {
      static className = 'Block';
      readonly norm = norm;
      override call(inputs: tf.Tensor[], kwargs: object): tf.Tensor {
        return this.norm.apply(inputs[0], kwargs) as tf.Tensor;
      }
    }
    const block = new Block({ inputShape });
    const all = tf.sequential({ layers: [block, dense(1)] });
    compile(all);
    tf.dispose(all.predict(tf.ones([1, 3])));
    block.trainable = false;
    await expectMoving(all, norm, random);
    norm.trainable = false;
    await expectFrozen(all, norm, random);
  });

  it('training: false, given where a model is made', async () => {
    await tf.setBackend('cpu');
    install(tf);
    const random = new Random();
    const norm = makeNorm();
    const input = tf.input({ shape: inputShape });
    const normed = norm.apply(input, { training: false });
    const all = tf.model({ inputs: input, outputs: dense(1).apply(normed) as tf.SymbolicTensor });
    compile(all);
    await expectMoving(all, norm, random);
  });
});

async function reloaded(model: tf.LayersModel): Promise<[tf.LayersModel, Layer]> {
  const saved = await new Promise<tf.io.ModelArtifacts>((resolve) => {
    void model.save({
      save: async (artifacts) => {
        resolve(artifacts);
        return { modelArtifactsInfo: { dateSaved: new Date(0), modelTopologyType: 'JSON' as const } };
      },
    });
  });
  const loaded = await tf.loadLayersModel(tf.io.fromMemory(saved));
  const layers = loaded.layers.flatMap((layer) => [layer, ...((layer as tf.LayersModel).layers ?? [])]);
  return [loaded, layers.find((layer) => layer.getClassName() === 'BatchNormalization') as Layer];
}
