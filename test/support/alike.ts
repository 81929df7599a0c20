import type { Mpi } from '../../lib/backend/backend.js';

/** An MPI of members that all do and bring the same, of which this process is rank 0: it notes what each of them sends. */
export class AlikeMpi implements Mpi {
  /** Of each exchange of MPI, how many values for every other member. */
  readonly sent: number[] = [];
  readonly #size: number;
  #brought = new Float64Array(0);

  constructor(size: number) {
    this.#size = size;
  }

  load(): string {
    return 'alike';
  }

  isStarted(): boolean {
    return true;
  }

  start(): number {
    return this.#size;
  }

  rank(): number {
    return 0;
  }

  begin(_toEach: boolean, values: Float64Array, count: number): void {
    this.sent.push(count);
    // What is for each one begins with what is for rank 0.
    this.#brought = values.slice(0, count);
  }

  wait(): boolean {
    return true;
  }

  take(values: Float64Array): void {
    for (let rank = 0; rank < this.#size; rank++) values.set(this.#brought, rank * this.#brought.length);
  }

  end(): void {}
}
