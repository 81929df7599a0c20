import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expectListed } from './messages.js';

/** Where the model files lie that test/fixtures/make.py and make.ts have made. */
export const files = fileURLToPath(new URL('../fixtures/files/', import.meta.url));

/** The code and the message of what a call throws or rejects with; undefined where it does neither. */
export async function failureOf(
  call: () => unknown,
): Promise<{ code: unknown; message: string } | undefined> {
  try {
    await call();
    return undefined;
  } catch (error) {
    const { code, message } = error as Error & { code?: unknown };
    if (`${code}`.startsWith('ERR_BATCHNORM_')) expectListed(message);
    return { code, message };
  }
}

export const inFiles = (name: string) => join(files, name);
