// The pages that the main job, data with gaps, monitors and the benchmark write, in headless Chromium. Screenshots go to out/screenshots/.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { BatchNorm, monitor } from 'batchnorm';
import type { Browser, Page } from 'puppeteer-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bytesOf, selectCases } from '../../bench/cases.js';
import { rooflineOf } from '../../bench/contender.js';
import { noiseNote } from '../../bench/report/noise.js';
import { page as benchPage } from '../../bench/report/page.js';
import { accuracyTables, speedTables } from '../../bench/report/tables.js';
import { Lookup, type Measurement, type Results } from '../../bench/results.js';
import { gapPlots, gapSections, SHARES, TITLE, type Trained } from '../../examples/gaps/report.js';
import { svgDocument, trainingPlots } from '../../examples/mnist/plot.js';
import { outcomeSection, renderPage, timeSection } from '../../examples/mnist/report.js';
import { launchChromium } from '../support/chromium.js';

const SCREENSHOTS = 'out/screenshots';

/** Of a run in which one thread is beyond the axis of the first plot, and whose rounds lie far apart. */
function benchResults(): Results {
  const selected = selectCases({ quick: true, sweep: true, only: '', dtype: 'float32' });
  const sweep = selected.filter(({ group }) => group === 'sweep');
  const cases = [...selected.slice(0, 6), ...sweep];
  expect(sweep.length).toBeGreaterThan(5);
  const contenders = [
    { name: 'native 1T', threads: 1 },
    { name: 'native 2T', threads: 2 },
    { name: 'plain JS', threads: 1 },
  ];
  const measurement = (subject: string, pass: Measurement['pass'], contender: string, ns: number) => ({
    case: subject,
    pass,
    contender,
    min: ns,
    median: 1.5 * ns,
    rounds: [ns, 1.4 * ns, 1.5 * ns],
  });
  const measurements = cases.flatMap((subject) =>
    (['inference', 'training', 'backward'] as const).flatMap((pass) => {
      const limit = 100 + bytesOf(subject) / 10;
      return [
        measurement(subject.name, rooflineOf(pass), 'native 1T', limit),
        measurement(subject.name, rooflineOf(pass), 'native 2T', limit),
        measurement(subject.name, pass, 'native 1T', (pass === 'inference' ? 0.4 : 1.2) * limit),
        measurement(subject.name, pass, 'native 2T', 1.1 * limit),
        measurement(subject.name, pass, 'plain JS', 9 * limit),
      ];
    }),
  );
  const accuracy = contenders.map(({ name }, i) => ({
    case: 'N(0, 1)',
    layout: 'channels-first' as const,
    contender: name,
    varianceError: [1e-12, 3e-7, NaN][i],
    yError: [1e-12, 1e-7, 1e-7][i],
  }));
  return {
    date: '2026-01-01T00:00:00.000Z',
    machine: 'a machine <of two CPUs>',
    command: 'npm run bench -- --quick --rounds 4 --milliseconds 40 --contenders plain',
    threads: 2,
    contenders,
    cases,
    measurements,
    accuracy,
    notes: [noiseNote(measurements) ?? 'quiet'],
  };
}

function mnistPages(): { html: string; svg: string } {
  const history = (to: number) => ({
    losses: Float64Array.from({ length: 400 }, (_, i) => 2.3 * (to / 2.3) ** (i / 400)),
    accuracies: Float64Array.from({ length: 400 }, (_, i) => 1 - (0.9 * to) / 2.3 ** (i / 400)),
    stepsPerEpoch: 100,
  });
  const plots = trainingPlots([
    { name: 'with batch norm, rate 0.8', color: 'first', history: history(0.05) },
    { name: 'without, rate 0.8', color: 'second', history: history(2.3) },
    { name: 'without, rate 0.1', color: 'third', history: history(NaN) },
  ]);
  const times = { min: 1234, median: 2345 };
  const sections = [
    outcomeSection(
      [{ name: 'with batch norm', accuracy: 0.98, finalLoss: NaN, seconds: 20, cpuSeconds: 10 }],
      1e4,
    ),
    timeSection([{ work: 'training step', library: times, plainJs: times, difference: 1e-7 }], {
      library: 'native',
      batch: 100,
      noise: 'Noisy, other programs were at work.',
    }),
  ];
  const title = 'MNIST with and without batch normalization';
  const html = renderPage(title, 'What came out.', plots, sections, [['machine', 'one & two <three>']]);
  return { html, svg: svgDocument(title, plots) };
}

function gapsPage(): string {
  const line = (name: string, color: Trained['color'], most: number): Trained => ({
    name,
    color,
    isDashed: color === 'second',
    history: {
      losses: new Float64Array(200).fill(most),
      accuracies: new Float64Array(200),
      stepsPerEpoch: 100,
    },
    accuracies: SHARES.map((share) => most - share / 2),
    mean: 0.7,
    variance: 1,
  });
  const trained = [line("missing: 'impute'", 'first', 0.96), line('filled with means', 'second', 0.95)];
  const sequences = { features: 2, values: [Float32Array.of(1, 2, 3, 5), Float32Array.of(4, 1)] };
  const sections = gapSections(trained, sequences);
  return renderPage(TITLE, 'What came out.', gapPlots(trained), sections, [['machine', 'one']]);
}

/** Of a layer that jumps once, one that rejects updates, one with half of its channels dead, and one that has not trained. */
function monitorPage(): string {
  const layers = {
    jumps: new BatchNorm(4),
    rejects: new BatchNorm(4),
    'a name <b>&</b> of its own': new BatchNorm(4),
    untrained: new BatchNorm(4),
  };
  const { jumps, rejects, 'a name <b>&</b> of its own': dead } = layers;
  dead.weight?.set([0, 0, 1, 1]);
  const watch = monitor(layers, { title: 'Batch norms & others' });
  for (let step = 0; step < 300; step++) {
    const values = Float32Array.from(
      { length: 32 },
      (_, i) => Math.sin(i * (step + 1)) + (step === 200 ? 9 + (i % 4) : 0),
    );
    const x = { data: values, shape: [8, 4] };
    jumps.forward(x);
    // By turns, as the two networks of a GAN.
    if (step % 2 === 0) dead.forward(x);
    rejects.forward({
      data: values.map((value, i) => (i === 3 && step % 3 === 0 ? NaN : value)),
      shape: [8, 4],
    });
    watch.step({ jumps: x });
  }
  return watch.html();
}

let folder: string;
let browser: Browser;
let page: Page;

beforeAll(async () => {
  mkdirSync(SCREENSHOTS, { recursive: true });
  folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
  const lookup = new Lookup(benchResults());
  const tables = [...speedTables(lookup), ...accuracyTables(lookup)];
  writeFileSync(join(folder, 'bench.html'), benchPage(lookup, tables));
  const { html, svg } = mnistPages();
  writeFileSync(join(folder, 'mnist.html'), html);
  writeFileSync(join(folder, 'mnist.svg'), svg);
  writeFileSync(join(folder, 'gaps.html'), gapsPage());
  writeFileSync(join(folder, 'monitor.html'), monitorPage());
  browser = await launchChromium();
  page = await browser.newPage();
});

afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true });
});

async function show(file: string, scheme: 'light' | 'dark', width: number): Promise<void> {
  await page.setViewport({ width, height: 700 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.goto(pathToFileURL(join(folder, file)).href);
  await page.screenshot({ path: join(SCREENSHOTS, `${file}-${scheme}-${width}.png`), fullPage: true });
}

/** From 0, black, to 255, of a CSS colour that the browser has computed; a string, as the DOM's types are not Node's. */
const lightness = (selector: string, property: string) =>
  page.evaluate(`Math.max(...getComputedStyle(document.querySelector('${selector}')).${property}
    .match(/\\d+/g).slice(0, 3).map(Number))`);

describe.each(['mnist.html', 'gaps.html', 'monitor.html', 'bench.html'])('%s', (file) => {
  it('is dark where the reader wants that, and light elsewhere', async () => {
    await show(file, 'dark', 1100);
    expect(await lightness('body', 'backgroundColor')).toBeLessThan(60);
    expect(await lightness('svg text', 'fill')).toBeGreaterThan(150);
    expect(await lightness('td', 'color')).toBeGreaterThan(150);
    await show(file, 'light', 1100);
    expect(await lightness('body', 'backgroundColor')).toBeGreaterThan(240);
    expect(await lightness('svg text', 'fill')).toBeLessThan(100);
  });

  it.each(['light', 'dark'] as const)(
    'fits a telephone that is %s, with text one can read',
    async (scheme) => {
      await show(file, scheme, 375);
      const [wide, cut, cutText, least] = (await page.evaluate(`[
      document.documentElement.scrollWidth,
      [...document.querySelectorAll('h1, h2, p, svg, figcaption, dd, code')]
        .map((element) => element.getBoundingClientRect())
        .filter(({ left, right }) => left < 0 || right > innerWidth).length,
      [...document.querySelectorAll('svg text')].filter((text) => {
        const [inner, outer] = [text, text.closest('svg')].map((it) => it.getBoundingClientRect());
        return inner.left < outer.left - 1 || inner.right > outer.right + 1;
      }).map((text) => text.textContent),
      Math.min(...[...document.querySelectorAll('svg text')].map((text) => {
        const { width } = text.closest('svg').getBoundingClientRect();
        return parseFloat(getComputedStyle(text).fontSize) * width / text.closest('svg').viewBox.baseVal.width;
      })),
    ]`)) as [wide: number, cut: number, cutText: string[], least: number];
      expect({ wide, cut, cutText }).toEqual({ wide: 375, cut: 0, cutText: [] });
      expect(least).toBeGreaterThan(8.5);
    },
  );
});

describe('mnist.html', () => {
  it('says each cell of a table with the head of its column on a telephone', async () => {
    await show('mnist.html', 'light', 375);
    const heads = await page.evaluate(`[...document.querySelectorAll('tr td:nth-child(2)')]
      .map((cell) => getComputedStyle(cell, '::before').content)`);
    expect(heads).toEqual(['"test accuracy"', '"native min"']);
    const text = (await page.evaluate('document.body.innerText')) as string;
    expect(text).toContain('diverged');
    expect(text).toContain('Noisy');
    expect(text).toContain('one & two <three>');
  });

  it('has its plots as a document of their own', async () => {
    await show('mnist.svg', 'dark', 1000);
    expect(await lightness('rect', 'fill')).toBeLessThan(60);
    expect(await lightness('text', 'fill')).toBeGreaterThan(150);
    expect(await page.$$eval('svg svg', (all) => all.length)).toBe(2);
  });
});

describe('gaps.html', () => {
  it('has a dashed line where it lies over another one', async () => {
    await show('gaps.html', 'light', 1100);
    expect(await page.$$eval('svg [stroke-dasharray]', (all) => all.length)).toBe(2);
  });
});

describe('monitor.html', () => {
  it('has a plot per layer for each measure on one scale, and marks what lies beyond its edge', async () => {
    await show('monitor.html', 'light', 1100);
    const sections = (await page.evaluate(`[...document.querySelectorAll('section')].map((section) => [
      section.querySelector('h2').textContent,
      section.querySelectorAll('figure').length,
      new Set([...section.querySelectorAll('svg')].map((svg) => [...svg.querySelectorAll('text')].map((it) => it.textContent).join())).size,
      section.querySelectorAll('.beyond').length > 0,
      new Set([...section.querySelectorAll('svg')].map((svg) => Math.round(svg.getBoundingClientRect().height))).size,
    ])`)) as unknown[][];
    expect(sections).toEqual([
      ['Drift of means', 4, 1, true, 1],
      ['Drift of variances', 4, 1, true, 1],
      ['Channels that do nothing, in %', 4, 1, false, 1],
      ['Values that are not positive, in %', 4, 1, false, 1],
      ['Rejected updates, in %', 4, 1, false, 1],
      ['Channels that are not finite, in %', 4, 1, false, 1],
    ]);
    const text = (await page.evaluate('document.body.innerText')) as string;
    expect(text).toMatch(/jumps .*▲ (one value|\d+ values) beyond the edge, up to [\d.]+ in step 201/);
    expect(text).toContain('"a name <b>&</b> of its own"');
    expect(text).toContain('nothing measured');
    expect(text).toContain('dead 50');
    // It trains at every second look only, and yet has lines.
    const lengths =
      (await page.evaluate(`[...document.querySelectorAll('section:first-of-type figure:nth-child(3) .line')]
      .map((path) => path.getTotalLength())`)) as number[];
    expect(Math.min(...lengths)).toBeGreaterThan(200);
  });
});

describe('bench.html', () => {
  it('marks what lies beyond the edge of a plot, and says that the run was noisy', async () => {
    await show('bench.html', 'light', 1100);
    const text = (await page.evaluate('document.body.textContent')) as string;
    expect(text).toMatch(/Noisy: in (\d+) of \1 measurements/);
    const [inference, training] = (await page.evaluate(`[...document.querySelectorAll('figure')].slice(0, 2)
      .map((figure) => [figure.querySelectorAll('[aria-label=dot] path').length, figure.textContent.split('2.5').length - 1])`)) as number[][];
    // Dots are circles, triangles are paths: one thread of six cases, in inference only, with its value.
    expect({ inference, training }).toEqual({ inference: [6, 6], training: [0, 0] });
    const rotations = await page.$$eval('figure:last-of-type [aria-label=dot] path', (paths) =>
      paths.map((path) => /rotate\((\d+)\)/.exec(path.getAttribute('transform') ?? '')?.[1] ?? '0'),
    );
    // The error below the axis and the one that is no number.
    expect(rotations.slice(-2)).toEqual(['180', '0']);
  });
});
