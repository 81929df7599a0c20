/** Why a batch norm cannot go where it was to go. */
export class Obstacle {
  constructor(readonly reason: string) {}
}

/**
 * What `run` returns, or the obstacle that it throws.
 *
 * @throws whatever else it throws, but for what the arithmetic refuses: statistics that are not finite, a negative variance.
 */
export function attempt<T>(run: () => T): T | Obstacle {
  try {
    return run();
  } catch (error) {
    if (error instanceof Obstacle) return error;
    if (error instanceof Error && 'code' in error && error.code === 'ERR_BATCHNORM_INVALID_VALUE')
      return new Obstacle(error.message);
    throw error;
  }
}
