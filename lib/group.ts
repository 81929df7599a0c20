/**
 * Those who compute on one batch together: each member calls the same exchanges in the same order, with its own values.
 * Workers of one process are one by `WorkerGroup` of `batchnorm/workers`, processes of many machines by `mpi` of `batchnorm/mpi`;
 * anything else that has these methods is one too.
 */
export interface ProcessGroup {
  /** Which member this is, from 0 on. */
  readonly rank: number;
  /** How many members there are. */
  readonly size: number;
  /**
   * Waits until every member has called it, and gives each the values of all.
   *
   * @param mine as many values from each member.
   * @param all `size` times as many: those of rank 0, then those of rank 1, and so on.
   */
  allGather(mine: Float64Array, all: Float64Array): void;
  /**
   * Waits until every member has called it, and puts the sums over all members in the place of the values: the same bits everywhere.
   *
   * @param values as many from each member.
   */
  allReduce(values: Float64Array): void;
  /**
   * {@link ProcessGroup.allGather} that does not block.
   *
   * @param mine read at the time of the call.
   * @param all written when the promise resolves.
   */
  allGatherAsync?(mine: Float64Array, all: Float64Array): Promise<void>;
  /**
   * {@link ProcessGroup.allReduce} that does not block.
   *
   * @param values read at the time of the call, and written when the promise resolves.
   */
  allReduceAsync?(values: Float64Array): Promise<void>;
}
