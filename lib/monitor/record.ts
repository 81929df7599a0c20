/** What a layer was doing when it was looked at. */
export type LayerState = 'training' | 'idle' | 'evaluation' | 'untrained';

/** What {@link Monitor.step} found in one layer; null stands for what could not be measured there. */
export interface LayerRecord {
  /** Calls of {@link Monitor.step} so far, this one among them. */
  readonly step: number;
  /** The layer's name. */
  readonly layer: string;
  /**
   * 'training': a batch since the last look; 'idle': in training mode, but no batch since then (not told of layers without running
   * statistics); 'evaluation': in evaluation mode, frozen ones in fine tuning; 'untrained': no training batch yet. All but 'training'
   * measure nothing.
   */
  readonly state: LayerState;
  /**
   * How far the running mean lies from that of the batch: the mean over the channels of z = |batch mean − running mean| /
   * √(running variance + eps), which is how far the mean of the batch would lie from 0 were it normalized in evaluation. The running
   * statistics are those of now, which have taken the batch in with weight 1 − decay.
   */
  readonly meanDrift: number | null;
  /** The largest z. */
  readonly maxMeanDrift: number | null;
  /** The channel that has it. */
  readonly driftChannel: number | null;
  /**
   * The mean over the channels of |log₂((batch variance + eps) / (running variance + eps))|: 1 is twice, or half. The variance of the
   * batch is the unbiased estimate where the running variance is.
   */
  readonly varDrift: number | null;
  /** The largest of them. */
  readonly maxVarDrift: number | null;
  /** Channels whose drift is no finite number: a batch that was not finite, or eps 0 and no variance. */
  readonly notFinite: number | null;
  /** Channels that pass nothing on: |weight| below 1e-5, or a variance in the batch of 0.001 eps at most. */
  readonly dead: number | null;
  /**
   * Channels whose gradients of weight and bias are exactly 0, as where a ReLU behind them lets nothing through: of the last backward, so
   * call step() between backward and zeroGrad(). null before a gradient has been seen, and without weight and bias.
   */
  readonly withoutGradient: number | null;
  /**
   * The share of values of y that are not positive, which a ReLU makes 0, or has made 0: of 2,048 of them, spread evenly, or of all where
   * there are fewer, and of one per channel at least. null unless step() was given y.
   */
  readonly notPositive: number | null;
  /** Updates of a channel's running statistics that were left out since the last look. */
  readonly rejected: number | null;
  /** Their share in all updates since then. */
  readonly rejectedShare: number | null;
}

/** Of a layer that has no batch to measure. */
export function emptyRecord(step: number, layer: string, state: LayerState): LayerRecord {
  return {
    step,
    layer,
    state,
    meanDrift: null,
    maxMeanDrift: null,
    driftChannel: null,
    varDrift: null,
    maxVarDrift: null,
    notFinite: null,
    dead: null,
    withoutGradient: null,
    notPositive: null,
    rejected: null,
    rejectedShare: null,
  };
}
