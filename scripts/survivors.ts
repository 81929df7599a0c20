// Changes that no test need notice.

/** A line as it is changed, or how it begins, and why nothing that is promised changes with it. */
export interface Survivor {
  readonly changed: string;
  readonly why: string;
}

export const survivors: Readonly<Record<string, readonly Survivor[]>> = {};
