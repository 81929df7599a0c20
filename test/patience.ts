/**
 * Milliseconds after which a program is taken for hung and ended, so that the test says which. No test hangs on it: under
 * sanitizers and emulators, on the slowest machine beside other work, the longest takes a tenth.
 */
export const patience = 1_200_000;
