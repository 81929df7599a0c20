import { readFileSync } from 'node:fs';
import type { FastifyInstance } from 'fastify';

const HTML = 'text/html; charset=utf-8';
const CSS = 'text/css; charset=utf-8';
const SCRIPT = 'text/javascript; charset=utf-8';

const PAGES = [
  { url: '/', file: 'draw.html', type: HTML },
  { url: '/stats', file: 'stats.html', type: HTML },
  { url: '/style.css', file: 'style.css', type: CSS },
  { url: '/draw.js', file: 'draw.js', type: SCRIPT },
  { url: '/inside.js', file: 'inside.js', type: SCRIPT },
  { url: '/digit.js', file: 'digit.js', type: SCRIPT },
  { url: '/stats.js', file: 'stats.js', type: SCRIPT },
];

/** The pages, read once: a file per route, so that no request can name another. */
export function addPages(app: FastifyInstance): void {
  for (const { url, file, type } of PAGES) {
    const body = readFileSync(new URL(`pages/${file}`, import.meta.url));
    app.get(url, (_request, reply) => reply.type(type).header('cache-control', 'no-cache').send(body));
  }
}
