// The pages of the server in headless Chromium. Screenshots go to out/screenshots/.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, Page } from 'puppeteer-core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { launchChromium } from '../support/chromium.js';
import { patience } from '../support/patience.js';
import { type ServeProcess, startServe } from './serve-process.js';

const SCREENSHOTS = 'out/screenshots';

type Point = [x: number, y: number];

/** Part of an ellipse around (x, y), in degrees clockwise from the right. */
function arc(x: number, y: number, rx: number, ry: number, from: number, to: number): Point[] {
  const steps = 24;
  return Array.from({ length: steps + 1 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / steps) * Math.PI) / 180;
    return [x + rx * Math.cos(angle), y + ry * Math.sin(angle)];
  });
}

/** How one writes the digits, in shares of the paper. */
const STROKES: readonly Point[][][] = [
  [arc(0.5, 0.5, 0.2, 0.32, -90, 270)],
  [
    [
      [0.54, 0.18],
      [0.47, 0.82],
    ],
  ],
  [[...arc(0.5, 0.35, 0.2, 0.17, -170, 40), [0.3, 0.8], [0.74, 0.78]]],
  [[...arc(0.46, 0.34, 0.2, 0.16, -150, 90), ...arc(0.46, 0.66, 0.22, 0.17, -90, 150)]],
  [
    [
      [0.34, 0.2],
      [0.3, 0.52],
      [0.7, 0.5],
    ],
    [
      [0.66, 0.2],
      [0.62, 0.84],
    ],
  ],
  [[[0.7, 0.2], [0.4, 0.2], [0.37, 0.46], ...arc(0.48, 0.62, 0.21, 0.19, -110, 140)]],
  [[[0.6, 0.16], [0.44, 0.36], [0.36, 0.6], ...arc(0.5, 0.67, 0.15, 0.15, 180, -180)]],
  [
    [
      [0.28, 0.22],
      [0.72, 0.22],
      [0.46, 0.84],
    ],
  ],
  [[...arc(0.5, 0.33, 0.15, 0.15, 80, -270), ...arc(0.5, 0.66, 0.18, 0.18, -90, 270)]],
  [[...arc(0.5, 0.34, 0.17, 0.16, 0, -360), [0.65, 0.5], [0.6, 0.84]]],
];

let folder: string;
let server: ServeProcess;
let address: string;
let browser: Browser;
let page: Page;
const problems: string[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
  mkdirSync(SCREENSHOTS, { recursive: true });
  server = startServe('--port', '0', '--train', '--model', join(folder, 'mnist.safetensors'));
  address = await server.address;
  browser = await launchChromium();
  page = await browser.newPage();
  page.setDefaultTimeout(patience);
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warn') problems.push(message.text());
  });
});

afterAll(async () => {
  await browser?.close();
  server?.child.kill('SIGTERM');
  expect(await server?.ended).toBe(0);
  rmSync(folder, { recursive: true });
});

beforeEach(async () => {
  problems.length = 0;
  await show('light', 1000, 720);
});

async function show(scheme: 'light' | 'dark', width: number, height: number): Promise<void> {
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
}

/** Draws with the mouse; `size` and `at` shrink and move the digit on the paper. */
async function draw(strokes: Point[][], size = 1, [left, top]: Point = [0, 0]): Promise<void> {
  const paper = await (await page.waitForSelector('#paper'))?.boundingBox();
  if (!paper) throw new Error('the paper must be visible, got none');
  const place = ([x, y]: Point): Point => [
    paper.x + paper.width * (left + size * x),
    paper.y + paper.height * (top + size * y),
  ];
  for (const [first, ...rest] of strokes) {
    await page.mouse.move(...place(first));
    await page.mouse.down();
    for (const point of rest) await page.mouse.move(...place(point), { steps: 4 });
    await page.mouse.up();
  }
}

/** The digit shown for the drawing as it is now: the status of the last stroke is spoken when it is recognised. */
async function recognised(): Promise<string> {
  await until('spoken', '/^\\d, /.test(text)');
  await page.waitForNetworkIdle({ idleTime: 100 });
  return page.$eval('#digit', ({ textContent }) => textContent ?? '');
}

/** Waits until an expression holds of the `text` of an element; a string, as the types of the DOM are not those of Node. */
async function until(id: string, expression: string): Promise<void> {
  await page.waitForFunction(`(({ textContent: text }) => ${expression})(document.getElementById('${id}'))`);
}

/** Whether the page is as wide as the window, rather than scrolled sideways. */
const fits = () => page.evaluate('document.documentElement.scrollWidth <= innerWidth');

const screenshot = (name: string) =>
  page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });

describe('the drawing page', () => {
  it.each(STROKES.map((strokes, digit) => [String(digit), strokes] as const))(
    'recognises a %s',
    async (digit, strokes) => {
      await page.goto(address);
      await draw(strokes);
      const shown = await recognised();
      await screenshot(`digit-${digit}`);
      expect(shown).toBe(digit);
      expect(problems).toEqual([]);
    },
  );

  it.each([1, 7, 0])('recognises a small %i in a corner', async (digit) => {
    await page.goto(address);
    await draw(STROKES[digit], 0.35, [0.62, 0.05]);
    expect(await recognised()).toBe(String(digit));
  });

  it('shows ten bars that add up to 100 %, and clears them', async () => {
    await page.goto(address);
    await draw(STROKES[3]);
    await recognised();
    const values = await page.$$eval('#bars .value', (all) =>
      all.map((value) => Number.parseFloat(value.textContent ?? '')),
    );
    expect(values).toHaveLength(10);
    expect(values.reduce((sum, value) => sum + value)).toBeCloseTo(100, 0);
    await page.click('#clear');
    expect(await page.$eval('#digit', ({ textContent }) => textContent)).toBe('?');
    expect(await page.$('#clear:disabled')).not.toBeNull();
  });

  it('takes back one stroke', async () => {
    await page.goto(address);
    await draw([
      ...STROKES[1],
      [
        [0.3, 0.2],
        [0.8, 0.5],
      ],
    ]);
    await page.click('#undo');
    expect(await recognised()).toBe('1');
  });

  it('can be drawn on with the keyboard', async () => {
    await page.goto(address);
    await page.focus('#paper');
    await page.keyboard.press('Space');
    for (let i = 0; i < 16; i++) await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Space');
    expect(await recognised()).toBe('1');
    await page.keyboard.press('Delete');
    expect(await page.$eval('#digit', ({ textContent }) => textContent)).toBe('?');
  });

  it('takes a finger', async () => {
    await page.goto(address);
    const paper = await (await page.waitForSelector('#paper'))?.boundingBox();
    if (!paper) throw new Error('the paper must be visible, got none');
    const at = ([x, y]: Point) => [paper.x + paper.width * x, paper.y + paper.height * y] as const;
    const [first, ...rest] = STROKES[7][0];
    await page.touchscreen.touchStart(...at(first));
    for (const point of rest) await page.touchscreen.touchMove(...at(point));
    await page.touchscreen.touchEnd();
    expect(await recognised()).toBe('7');
  });

  it('fits a dark telephone', async () => {
    await show('dark', 390, 844);
    await page.goto(address);
    await draw(STROKES[2]);
    await recognised();
    await screenshot('dark-narrow');
    expect(await fits()).toBe(true);
    const cut = await page.evaluate(`[...document.querySelectorAll('#work *')].filter((element) =>
      element.getBoundingClientRect().right > document.getElementById('work').getBoundingClientRect().right).length`);
    expect(cut).toBe(0);
    await show('dark', 1000, 720);
    await screenshot('dark');
    expect(problems).toEqual([]);
  });

  it.each([
    [375, 667],
    [390, 844],
  ])('shows the answer beside the drawing on a telephone of %i x %i', async (width, height) => {
    await show('light', width, height);
    await page.goto(address);
    await draw(STROKES[4]);
    await recognised();
    const outside = await page.evaluate(`['digit', 'summary', 'paper'].filter((id) => {
      const { top, bottom } = document.getElementById(id).getBoundingClientRect();
      return top < 0 || bottom > innerHeight;
    })`);
    expect({ outside, scrolled: await page.evaluate('scrollY') }).toEqual({ outside: [], scrolled: 0 });
    await page.screenshot({ path: join(SCREENSHOTS, `narrow-${width}.png`) });
  });

  it('shows batch normalization at work, with and without, while one draws', async () => {
    await page.goto(address);
    expect(await page.$('#work[hidden]')).not.toBeNull();
    await draw(STROKES[7]);
    await recognised();
    const figures = async () =>
      (await page.evaluate(`[...document.querySelectorAll('.features')].map((svg) =>
        [svg.querySelectorAll('.before').length > 0, svg.querySelectorAll('.after').length > 0])`)) as boolean[][];
    expect(await figures()).toEqual([
      [true, true],
      [true, true],
      [true, false],
      [true, false],
    ]);
    expect(await page.$eval('#withDigit', ({ textContent }) => textContent)).toBe('7');
    expect(await page.$eval('#withoutDigit', ({ textContent }) => textContent)).toMatch(/^\d$/);
    const shares = (await page.$$eval('#work figcaption', (all) =>
      all.map(({ textContent }) => Number(/lets (\d+)/.exec(textContent ?? '')?.[1])),
    )) as number[];
    // At this rate most features of the network without have died; batch norm keeps them around 0.
    expect(Math.min(shares[0], shares[1])).toBeGreaterThan(20);
    expect(shares[2]).toBeLessThan(shares[0] / 2);
    const seven = await page.$eval('#withLayers', ({ innerHTML }) => innerHTML);
    await draw(STROKES[1]);
    await page.waitForNetworkIdle({ idleTime: 100 });
    expect(await page.$eval('#withLayers', ({ innerHTML }) => innerHTML)).not.toBe(seven);
    await page.click('#clear');
    await page.waitForFunction(`document.querySelectorAll('.features').length === 0`);
    expect(problems).toEqual([]);
  });

  it('says when the server does not answer', async () => {
    await page.goto(address);
    await page.setOfflineMode(true);
    await draw(STROKES[1]);
    await until('status', 'text.startsWith("No answer")');
    await page.setOfflineMode(false);
    await page.goto('about:blank');
  });
});

describe('the statistics page', () => {
  it('counts what is served, while it is open', async () => {
    await page.goto(`${address}/stats`);
    const served = () => page.$eval('#served', ({ textContent }) => Number(textContent?.replaceAll(',', '')));
    await until('served', 'text !== "–"');
    const before = await served();
    expect(before).toBeGreaterThan(10);
    const images = new Uint8Array(64 * 784);
    for (let i = 0; i < 30; i++) {
      const headers = { 'content-type': 'application/octet-stream' };
      expect((await fetch(`${address}/predict`, { method: 'POST', headers, body: images })).status).toBe(200);
      await new Promise((resolve) => setTimeout(resolve, 40 + 8 * (i % 7)));
    }
    await until('served', `text === "${(before + 30 * 64).toLocaleString('en')}"`);
    await new Promise((resolve) => setTimeout(resolve, 2500));
    await screenshot('stats');
    expect(await page.$eval('#batchNorms', ({ textContent }) => textContent)).toBe(
      'folded into the linear layers',
    );
    expect(await page.$eval('#status', ({ textContent }) => textContent)).toBe('');
    const axes = (await page.evaluate(`[...document.querySelectorAll('.axis')]
      .map((axis) => [...axis.children].map(({ textContent }) => Number(textContent.replaceAll(',', ''))))`)) as number[][];
    expect(axes).toHaveLength(2);
    for (const [top, middle, bottom] of axes) expect([middle, bottom]).toEqual([top / 2, 0]);
    // The highest value of a chart is within its axis, and not lost at its foot.
    const highest = (await page.evaluate(`['requestsMost', 'latencyMost']
      .map((id) => Number(/[\\d.,]+/.exec(document.getElementById(id).textContent)[0].replaceAll(',', '')))`)) as number[];
    for (const [i, value] of highest.entries()) {
      expect(value).toBeLessThanOrEqual(axes[i][0]);
      expect(value).toBeGreaterThan(0.39 * axes[i][0]);
    }
    await show('dark', 1000, 720);
    await screenshot('stats-dark');
    await show('light', 375, 667);
    await screenshot('stats-narrow');
    const cut = await page.evaluate(`[...document.querySelectorAll('.card')].filter((card) =>
      [...card.querySelectorAll('dd, td, svg, span')].some((it) =>
        it.getBoundingClientRect().right > card.getBoundingClientRect().right)).length`);
    expect(cut).toBe(0);
    expect(await fits()).toBe(true);
    expect(problems).toEqual([]);
  });
});
