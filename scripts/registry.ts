// A registry of npm with a handful of packages, for package managers that cannot install tarballs by themselves.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename } from 'node:path';

interface Manifest {
  name: string;
  version: string;
  scripts?: unknown;
}

/** Serves these tarballs, each as the latest version of its package, until it is closed. */
export async function serveRegistry(
  tarballs: readonly string[],
): Promise<{ url: string; close: () => void }> {
  const packages = new Map(
    tarballs.map((tarball) => {
      const { stdout } = spawnSync('tar', ['-xzOf', tarball, 'package/package.json'], { encoding: 'utf8' });
      const manifest = JSON.parse(stdout) as Manifest;
      return [manifest.name, { manifest, bytes: readFileSync(tarball), file: basename(tarball) }];
    }),
  );
  const server = createServer((request, response) => {
    const [, name, , file] = (request.url as string).split('/');
    const found = packages.get(name);
    if (!found) return response.writeHead(404).end('{}');
    const { manifest, bytes } = found;
    if (file) return response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(bytes);
    const { version } = manifest;
    const digest = (algorithm: string) => createHash(algorithm).update(bytes);
    const dist = {
      tarball: `${url}${name}/-/${found.file}`,
      shasum: digest('sha1').digest('hex'),
      integrity: `sha512-${digest('sha512').digest('base64')}`,
    };
    // For scripts of authors that name node-gyp Yarn asks for that as well.
    const { scripts: _, ...told } = manifest;
    // Package managers wait for days before they take what is new.
    const published = '2020-01-01T00:00:00.000Z';
    response.writeHead(200, { 'content-type': 'application/json' }).end(
      JSON.stringify({
        name,
        'dist-tags': { latest: version },
        versions: { [version]: { ...told, dist } },
        time: { created: published, modified: published, [version]: published },
      }),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  return { url, close: () => server.close().closeAllConnections() };
}
