import { FrozenBatchNorm, Moments } from 'batchnorm';
import type { Section } from '../mnist/report.js';

const RATE = 16000;
const SECONDS = 10;
/** Bytes of the header of a WAV file with nothing but samples in it. */
const HEADER = 44;

/** A WAV file of 16 bits: on the left a tone that is too loud in the bass, on the right a quiet one with an offset. */
function makeWav(): Buffer {
  const frames = RATE * SECONDS;
  const file = Buffer.alloc(HEADER + frames * 4);
  file.write('RIFF', 0);
  file.writeUInt32LE(file.length - 8, 4);
  file.write('WAVEfmt ', 8);
  file.writeUInt32LE(16, 16);
  file.writeUInt16LE(1, 20);
  file.writeUInt16LE(2, 22);
  file.writeUInt32LE(RATE, 24);
  file.writeUInt32LE(RATE * 4, 28);
  file.writeUInt16LE(4, 32);
  file.writeUInt16LE(16, 34);
  file.write('data', 36);
  file.writeUInt32LE(frames * 4, 40);
  for (let i = 0; i < frames; i++) {
    const t = i / RATE;
    file.writeInt16LE(Math.round(24000 * Math.sin(2 * Math.PI * 80 * t)), HEADER + i * 4);
    file.writeInt16LE(Math.round(500 + 300 * Math.sin(2 * Math.PI * 440 * t)), HEADER + i * 4 + 2);
  }
  return file;
}

/** Samples of both channels, one frame after the other, where they lie in the file. */
function samplesOf(file: Buffer): Int16Array {
  return new Int16Array(file.buffer, file.byteOffset + HEADER, (file.length - HEADER) / 2);
}

/** 16-bit sound, each channel with mean 0 and variance 1, channel after channel. */
export function normalizeSound(): Section {
  const data = samplesOf(makeWav());
  const shape = [data.length / 2, 2];
  const before = Moments.of({ data: Float32Array.from(data), shape }, { axis: 1 });
  const layer = FrozenBatchNorm.fromMeanStd({
    mean: before.mean,
    std: before.variance.map(Math.sqrt),
    axis: 1,
  });
  const y = layer.run({ data, shape }, { outAxis: 0 });
  const after = Moments.of(y, { axis: 0 });
  const row = (name: string, moments: Moments, channel: number) => [
    name,
    // Without the sign of a −0.
    (Number(moments.mean[channel].toFixed(4)) + 0).toFixed(4),
    Math.sqrt(moments.variance[channel]).toFixed(4),
  ];
  return {
    heading: `${SECONDS} seconds of 16-bit stereo sound: [${shape.join(', ')}] int16 to [${y.shape.join(', ')}] float32`,
    columns: ['', 'mean', 'deviation'],
    rows: [
      row('left, as it is', before, 0),
      row('left, normalized', after, 0),
      row('right, as it is', before, 1),
      row('right, normalized', after, 1),
    ],
  };
}
