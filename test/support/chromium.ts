// The browser of the tests.
import { existsSync } from 'node:fs';
import puppeteer, { type Browser } from 'puppeteer-core';
import { patience } from './patience.js';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';

export async function launchChromium(): Promise<Browser> {
  if (!existsSync(CHROMIUM)) throw new Error(`CHROMIUM must be a browser's path, got ${CHROMIUM}`);
  return puppeteer.launch({
    executablePath: CHROMIUM,
    args: ['--no-sandbox'],
    timeout: patience,
    protocolTimeout: patience,
  });
}
