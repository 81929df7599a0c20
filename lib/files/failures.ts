// What is wrong with a file, worded and coded as everywhere: errors.ts has the words, here are the reasons.
import { rangeError } from '../errors.js';

/** For bytes that are not what their format, or the rest of the file, says. */
export function invalidFile(name: string, rule: string, actual: string, cause?: unknown): Error {
  return rangeError(name, rule, actual, 'INVALID_FILE', cause);
}

/** For a file that may be right, of a kind that is not read. */
export function unsupportedFile(name: string, rule: string, actual: string): Error {
  return rangeError(name, rule, actual, 'UNSUPPORTED_FILE');
}

/** For what would take more memory than a file of its kind needs. */
export function tooLarge(name: string, rule: string, actual: string): Error {
  return rangeError(name, rule, actual, 'FILE_TOO_LARGE');
}

/** For what took longer to read than a file of its kind needs. */
export function tooSlow(name: string, rule: string, actual: string): Error {
  return rangeError(name, rule, actual, 'FILE_TOO_SLOW');
}

/** For what is to be written and cannot be. */
export function invalidTensor(name: string, rule: string, actual: string): Error {
  return rangeError(name, rule, actual);
}
