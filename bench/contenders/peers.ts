import { createRequire } from 'node:module';

/** Resolves and loads what `npm run bench:peers` installs. */
export const requirePeer = createRequire(new URL('../peers/package.json', import.meta.url));

/** Whether a peer is installed. */
export function hasPeer(name: string): boolean {
  try {
    requirePeer.resolve(name);
    return true;
  } catch {
    return false;
  }
}
