import { Presets, SingleBar } from 'cli-progress';

/** Hears the steps of one training run. */
export interface Progress {
  step(step: number, epoch: number, loss: number): void;
  stop(): void;
}

/** A bar in a terminal; anywhere else a line per epoch, without times, so that two runs can be compared. */
export function showProgress(label: string, epochs: number, stepsPerEpoch: number): Progress {
  const line = (epoch: number, loss: number) =>
    `${label}  epoch ${String(epoch + 1).padStart(2)}/${epochs}  loss ${loss.toFixed(6)}`;
  if (!process.stdout.isTTY) {
    return {
      step(step, epoch, loss) {
        if (step % stepsPerEpoch === 0) console.log(line(epoch, loss));
      },
      stop() {},
    };
  }
  const format = '{line}  {bar}  {percentage} %  {duration_formatted}';
  const bar = new SingleBar({ format, stream: process.stdout, barsize: 30 }, Presets.shades_grey);
  bar.start(epochs * stepsPerEpoch, 0, { line: label });
  return {
    step(step, epoch, loss) {
      bar.update(step, { line: line(epoch, loss) });
    },
    stop() {
      bar.stop();
    },
  };
}
