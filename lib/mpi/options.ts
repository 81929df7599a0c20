/** What {@link mpi} may be given. */
export interface MpiOptions {
  /**
   * The name or path of the MPI library, where it is not the one that the launcher belongs to, or lies where nobody looks for it:
   * `libmpi.so.40` or `/opt/mpi/lib/libmpi.so`.
   */
  library?: string;
  /** How many milliseconds a member waits for the others, until the group is broken. Default 30,000. */
  timeout?: number;
}
