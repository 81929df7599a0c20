/**
 * Milliseconds after which a program is taken for hung and ended, so that the test says which. No test may hang on it: it is
 * far beyond what any takes under sanitizers or emulators, on a slow machine beside other work.
 */
export const patience = 1_200_000;
