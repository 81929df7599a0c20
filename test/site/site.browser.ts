// The site as `npm run docs:build` has left it, in headless Chromium. Screenshots go to out/screenshots/.
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, posix, sep } from 'node:path';
import type { Browser, BrowserContext, Page } from 'puppeteer-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { wasmBytes } from '../../lib/backend/wasm-bytes.js';
import { BatchNorm } from '../../lib/index.js';
import { pagePaths } from '../../scripts/pages.js';
import { launchChromium } from '../support/chromium.js';
import { patience } from '../support/patience.js';

const SITE = 'out/site';
const SCREENSHOTS = 'out/screenshots';

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.json': 'application/json',
  '.woff2': 'font/woff2',
};

/** What a server gives for a path; undefined for what is not there. */
function fileFor(path: string): string | undefined {
  const file = join(SITE, path.endsWith('/') ? `${path}index.html` : path);
  return existsSync(file) && statSync(file).isFile() ? file : undefined;
}

/** Of the pages of docs/, as a browser asks for them. */
const paths = pagePaths()
  .filter((path) => path.startsWith('docs/'))
  .map((path) =>
    path
      .slice('docs'.length)
      .replace(/(README|index)\.md$/, '')
      .replace(/\.md$/, '.html'),
  );

let server: Server;
let address: string;
let browser: Browser;
let context: BrowserContext;
let page: Page;
const problems: string[] = [];
const hosts = new Set<string>();

beforeAll(async () => {
  if (!existsSync(SITE)) throw new Error(`${SITE} must be there, run npm run docs:build, got nothing`);
  mkdirSync(SCREENSHOTS, { recursive: true });
  server = createServer(({ url = '' }, response) => {
    const file = fileFor(decodeURIComponent(new URL(url, 'http://localhost').pathname));
    if (file === undefined) response.writeHead(404).end();
    else response.writeHead(200, { 'content-type': types[extname(file)] }).end(readFileSync(file));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  browser = await launchChromium();
});

afterAll(async () => {
  await browser?.close();
  server?.close();
});

beforeEach(async () => {
  problems.length = 0;
  // Of its own, for the switch of light and dark is remembered.
  context = await browser.createBrowserContext();
  page = await context.newPage();
  page.setDefaultTimeout(patience);
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warn') problems.push(message.text());
  });
  page.on('request', (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol !== 'data:') hosts.add(host);
  });
});

afterEach(async () => {
  await context.close();
  expect(problems).toEqual([]);
});

/** Once it answers to clicks. */
async function open(path: string, { width = 1280, scheme = 'light' } = {}): Promise<void> {
  await page.setViewport({ width, height: 800 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.goto(`${address}${path}`);
  await page.waitForFunction('document.querySelector("#app")?.__vue_app__ !== undefined');
}

const screenshot = (name: string) =>
  page.screenshot({ path: join(SCREENSHOTS, `site-${name}.png`), fullPage: true });

const textOf = (selector: string) =>
  page.evaluate(`document.querySelector('${selector}')?.innerText ?? ''`) as Promise<string>;

describe('the site', () => {
  const files = new Map(
    readdirSync(SITE, { recursive: true, encoding: 'utf8' })
      .map((name) => name.replaceAll(sep, '/'))
      .filter((name) => name.endsWith('.html'))
      .map((name) => [`/${name}`, readFileSync(join(SITE, name), 'utf8')]),
  );
  const idsOf = (html: string) => [...html.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => id);

  it('has a page for each page of docs/, and a link to each from its side', () => {
    const missing = paths.filter((path) => fileFor(path) === undefined);
    expect(missing).toEqual([]);
    const linked = new Set(
      [...files.values()].flatMap((html) => hrefsOf(html).map((href) => href.split('#')[0])),
    );
    const lonely = paths.filter((path) => !linked.has(path) && path !== '/api/');
    expect(lonely).toEqual([]);
  });

  const hrefsOf = (html: string) =>
    [...html.matchAll(/\s(?:href|src)="([^"]*)"/g)].map(([, href]) => href.replaceAll('&amp;', '&'));

  it('links to pages, files and anchors that are there', () => {
    const anchors = new Map([...files].map(([path, html]) => [path, new Set(idsOf(html))]));
    const broken: string[] = [];
    let links = 0;
    for (const [path, html] of files)
      for (const href of hrefsOf(html)) {
        if (/^[a-z]+:/.test(href)) continue;
        links++;
        const [target, anchor] = href.split('#');
        const absolute = target === '' ? path : posix.resolve(posix.dirname(path), target);
        const file = fileFor(target.endsWith('/') && absolute !== '/' ? `${absolute}/` : absolute);
        const found =
          file && (!anchor || anchors.get(`/${posix.relative(SITE, file)}`)?.has(decodeURIComponent(anchor)));
        if (!found) broken.push(`${path}: ${href}`);
      }
    expect(broken).toEqual([]);
    expect(links).toBeGreaterThan(10 * files.size);
  });

  it('has each anchor once in a page', () => {
    const doubled = [...files].flatMap(([path, html]) => {
      const ids = idsOf(html);
      return ids.filter((id, i) => ids.indexOf(id) !== i).map((id) => `${path}#${id}`);
    });
    expect(doubled).toEqual([]);
  });

  it('fits a telephone on every page', async () => {
    const wide: string[] = [];
    // What a page is before its program runs is as wide, and there sooner.
    await page.setJavaScriptEnabled(false);
    await page.setViewport({ width: 375, height: 800 });
    for (const path of paths) {
      await page.goto(`${address}${path}`);
      const [width, cut] = (await page.evaluate(`[
        document.documentElement.scrollWidth,
        [...document.querySelectorAll('#VPContent :is(h1, h2, h3, h4, p, li, svg, textarea, input)')]
          .filter((it) => !it.closest('table, pre, .scrolls'))
          .filter((it) => it.getBoundingClientRect().right > innerWidth)
          .map((it) => it.textContent.slice(0, 60)),
      ]`)) as [width: number, cut: string[]];
      if (width > 375 || cut.length > 0) wide.push(`${path}: ${width} ${cut.join(' | ')}`);
    }
    expect(wide).toEqual([]);
  });

  it('finds a symbol by its name', async () => {
    await open('/');
    await page.keyboard.down('Control');
    await page.keyboard.press('k');
    await page.keyboard.up('Control');
    const input = await page.waitForSelector('.VPLocalSearchBox input');
    await input?.type('foldIntoConv');
    await page.waitForSelector('.VPLocalSearchBox .result');
    const first = '.VPLocalSearchBox .results li:first-child a';
    await vi.waitFor(async () => {
      const href = await page.evaluate(`document.querySelector('${first}').getAttribute('href')`);
      expect(href).toMatch(/^\/api\/batchnorm\/functions\/foldIntoConv\.html/);
    }, patience);
    await page.keyboard.press('Enter');
    await page.waitForFunction('location.pathname.endsWith("foldIntoConv.html")');
    await page.waitForFunction('document.querySelector("h1").innerText.includes("foldIntoConv()")');
  });

  it('finds an option by its name', async () => {
    await open('/');
    await page.click('.VPNavBarSearch button');
    const input = await page.waitForSelector('.VPLocalSearchBox input');
    await input?.type('virtualBatchSize');
    const option = '/api/batchnorm/interfaces/BatchNormOptions.html#property-virtualbatchsize';
    await page.waitForSelector(`.VPLocalSearchBox .result[href="${option}"]`);
  });

  it('finds what is no symbol', async () => {
    await open('/errors.html');
    await (await page.waitForSelector('.VPNavBarSearch button'))?.click();
    const input = await page.waitForSelector('.VPLocalSearchBox input');
    await input?.type('padded sequences');
    await page.waitForSelector('.VPLocalSearchBox .result[href^="/weights.html"]');
  });

  it('is light and dark, as the system is and as its switch says, with the picture', async () => {
    const lightness = (selector: string, property: string) =>
      page.evaluate(`Math.max(...getComputedStyle(document.querySelector('${selector}')).${property}
        .match(/\\d+/g).slice(0, 3).map(Number))`);
    await open('/', { scheme: 'dark' });
    expect(await lightness('.speed-picture text', 'fill')).toBeGreaterThan(150);
    expect(await lightness('body', 'backgroundColor')).toBeLessThan(60);
    await screenshot('start-dark');
    await page.click('.VPNavBar .VPSwitchAppearance');
    await page.waitForFunction('!document.documentElement.classList.contains("dark")');
    expect(await lightness('.speed-picture text', 'fill')).toBeLessThan(100);
    await vi.waitFor(
      async () => expect(await lightness('body', 'backgroundColor')).toBeGreaterThan(240),
      patience,
    );
    await screenshot('start-light');
  });

  it('shows its first page with the picture and the ten lines on a telephone', async () => {
    await open('/', { width: 375, scheme: 'dark' });
    await screenshot('start-dark-375');
    // Below the words, over none of them.
    const [text, picture] = (await page.evaluate(`['.VPHero .main', '.VPHero .speed-picture']
      .map((it) => document.querySelector(it).getBoundingClientRect().toJSON())`)) as {
      top: number;
      bottom: number;
    }[];
    expect(picture.top).toBeGreaterThan(text.bottom);
    expect(await textOf('.VPHome')).toContain('-1 -1 -1 -1 1 1 1 1');
  });

  it('draws the published results', async () => {
    await open('/benchmark.html');
    const plots = (await page.evaluate(`[...document.querySelectorAll('main section')].map((section) =>
      [section.querySelector('h2').id, section.querySelectorAll('svg').length])`)) as [string, number][];
    expect(plots).toEqual([
      ['fraction-of-the-limit', 3],
      ['size-of-the-tensor', 3],
      ['error-against-speed', 2],
    ]);
    /** Pairs of texts of a plot of which one lies on the other. */
    const onEachOther = () =>
      page.evaluate(`[...document.querySelectorAll('#error-against-speed ~ * svg')].flatMap((svg) => {
        const texts = [...svg.querySelectorAll('text')];
        const boxes = texts.map((text) => text.getBoundingClientRect());
        const within = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5 &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5;
        return texts.flatMap((text, i) => texts.slice(i + 1).flatMap((other, j) =>
          within(boxes[i], boxes[i + 1 + j]) ? [text.textContent + ', ' + other.textContent] : []));
      })`);
    expect(await page.evaluate(`document.querySelectorAll('#error-against-speed ~ * svg').length`)).toBe(2);
    expect(await onEachOther()).toEqual([]);
    await screenshot('benchmark-light');
    await open('/benchmark.html', { width: 375, scheme: 'dark' });
    expect(await onEachOther()).toEqual([]);
    await screenshot('benchmark-dark-375');
  });

  it('asks no other host for anything', () => {
    expect([...hosts]).toEqual([new URL(address).host]);
  });
});

describe('the page that computes', () => {
  /** Replaces what a field says. */
  async function type(field: string, text: string): Promise<void> {
    await page.evaluate(`{
      const field = document.querySelector('.live [name=${field}]');
      field.value = ${JSON.stringify(text)};
      field.dispatchEvent(new Event(field.tagName === 'SELECT' ? 'change' : 'input', { bubbles: true }));
    }`);
  }

  const cells = (table: string) =>
    page.evaluate(`[...document.querySelectorAll('[data-of=${table}] tbody tr')].map((row) =>
      [...row.cells].map((cell) => cell.innerText))`) as Promise<string[][]>;

  const failure = () => textOf('.live .failure p');

  /** The message that the library itself has for it. */
  function messageOf(call: () => unknown): string {
    try {
      call();
    } catch (error) {
      return (error as Error).message;
    }
    throw new Error('the call must throw, got a result');
  }

  const forward = (channels: number, options: object, x: number[], shape: number[]) =>
    new BatchNorm(channels, options).forward({ data: Float32Array.from(x), shape });

  async function openLive(options?: { width: number; scheme: string }): Promise<void> {
    await open('/live.html', options);
    await page.waitForSelector('.live [data-of=y], .live .failure');
  }

  it.runIf(wasmBytes === undefined)(
    'says what the library says where it was built without WebAssembly',
    async () => {
      await openLive();
      expect(await textOf('.live .failure')).toContain('ERR_BATCHNORM_WASM_UNAVAILABLE');
    },
  );

  describe.runIf(wasmBytes !== undefined)('with WebAssembly', () => {
    it('normalizes what is typed, along the axis that is chosen', async () => {
      await openLive();
      const x = [0, 100, 1, 101, 2, 102, 3, 105];
      await type('values', `[[[${x.slice(0, 4)}], [${x.slice(4)}]]]`);
      await type('shape', '1, 2, 2, 2');
      for (const [layout, axis] of [
        ['first', 1],
        ['last', -1],
      ] as const) {
        await type('layout', layout);
        const bn = new BatchNorm(2, { axis });
        const y = bn.forward({ data: Float32Array.from(x), shape: [1, 2, 2, 2] });
        await vi.waitFor(async () => {
          const shown = (await cells('y')).flat().map(Number);
          expect(shown).toEqual(Array.from(y.data, (value) => Number(value.toPrecision(5))));
        }, patience);
        expect(await cells('channels')).toEqual(
          [0, 1].map((channel) => [
            String(channel),
            ...[bn.lastMoments?.mean, bn.lastMoments?.variance].map((values) =>
              String(Number(values?.[channel].toPrecision(5))),
            ),
          ]),
        );
      }
      // Each value has the colour of its channel: here they take turns.
      const channels = await page.$$eval('[data-of=y] tr:first-child td', (all) =>
        all.map((it) => it.className),
      );
      expect(channels).toEqual(['channel channel-0', 'channel channel-1']);
      expect(await textOf('.live .program')).toContain('new BatchNorm(2, { axis: -1 })');
      await screenshot('live-light');
    });

    it('takes eps, an activation and any axis', async () => {
      await openLive();
      await type('values', '1 2 3 4 5 7');
      await type('shape', '2 3');
      await type('layout', 'other');
      await page.waitForSelector('.live [name=axis]');
      await type('axis', '0');
      await type('eps', '0.5');
      await type('activation', 'relu');
      const y = forward(2, { axis: 0, eps: 0.5, activation: 'relu' }, [1, 2, 3, 4, 5, 7], [2, 3]);
      await vi.waitFor(async () => {
        const shown = (await cells('y')).flat().map(Number);
        expect(shown).toEqual(Array.from(y.data, (value) => Number(value.toPrecision(5))));
      }, patience);
    });

    it.each([
      ['a shape that does not fit', { shape: '3 3' }, () => forward(3, {}, [1, 10, 3, 30, 5, 50], [3, 3])],
      ['no dimension for the axis', { shape: '6' }, () => forward(1, {}, [1, 10, 3, 30, 5, 50], [6])],
      ['half a dimension', { shape: '4 1.5' }, () => forward(1.5, {}, [], [])],
      ['no shape', { shape: '' }, () => forward(1, {}, [1, 10, 3, 30, 5, 50], [])],
      ['a negative eps', { eps: '-1' }, () => new BatchNorm(2, { eps: -1 })],
      ['one sample', { values: '1 2', shape: '1 2' }, () => forward(2, {}, [1, 2], [1, 2])],
      ['channels without end', { values: '', shape: '0 1e99' }, () => new BatchNorm(1e99)],
    ] as const)('says of %s what the library says', async (_, typed, call) => {
      await openLive();
      for (const [field, text] of Object.entries(typed)) await type(field, text);
      await vi.waitFor(async () => expect(await failure()).toBe(messageOf(call)), patience);
      expect(await textOf('.live .failure a')).toMatch(/^ERR_BATCHNORM_/);
      expect(await cells('y')).toEqual([]);
    });

    it('says which word is no number, and goes on when it is one', async () => {
      await openLive();
      await type('values', '1 10 3 <b>thirty</b> 5 50');
      await vi.waitFor(
        async () =>
          expect(await failure()).toBe(
            'x must be numbers with spaces or commas between them, got "<b>thirty</b>"',
          ),
        patience,
      );
      await type('values', '1 10 3 30 5 50');
      await type('eps', '1 2');
      await vi.waitFor(
        async () => expect(await failure()).toBe('eps must be one number, got "1 2"'),
        patience,
      );
      await type('eps', '');
      await vi.waitFor(async () => expect((await cells('y')).length).toBe(3), patience);
      expect(await failure()).toBe('');
    });

    it('keeps a NaN in its channel, and an empty tensor empty', async () => {
      await openLive();
      await type('values', '1 NaN 3 30 5 50');
      await vi.waitFor(async () => expect((await cells('y'))[0]).toEqual(['-1.2247', 'NaN']), patience);
      await type('values', '');
      await type('shape', '0 2');
      await page.waitForFunction('document.querySelector(".live").innerText.includes("as empty as x")');
    });

    it('shows the beginning of a large tensor, and says how much more there is', async () => {
      await openLive();
      await type('values', Array.from({ length: 5000 }, (_, i) => i).join(' '));
      await type('shape', '1000 5');
      await page.waitForFunction('document.querySelector(".live").innerText.includes("and 4400 more")');
      expect(await cells('y')).toHaveLength(120);
    });

    it('measures this browser', async () => {
      await openLive({ width: 375, scheme: 'dark' });
      await page.click('.live [name=measure]');
      await vi.waitFor(async () => expect(await cells('speed')).toHaveLength(3), 2 * patience);
      await page.waitForSelector('.live [name=measure]:enabled');
      const rows = await cells('speed');
      expect(rows.map(([pass]) => pass)).toEqual(['inference', 'training, forward', 'training, backward']);
      for (const [, ...numbers] of rows)
        for (const number of numbers) expect(Number.parseFloat(number)).toBeGreaterThan(0);
      await screenshot('live-dark-375');
    });
  });
});
