// The fields of protobuf messages, read where they lie: a message is gone through, and what is not asked for is passed over.
import type { Reader } from 'protobufjs/minimal.js';
import { invalidFile } from './failures.js';
import type { Source } from './source.js';

export type ReaderClass = typeof Reader;

/** Bytes from `begin` to before `end`. */
export interface Range {
  readonly begin: number;
  readonly end: number;
}

/** A field of a message: its value in place. */
export interface Field extends Range {
  readonly number: number;
  readonly wire: number;
  /** Of a varint; NaN for others. */
  readonly value: number;
}

export const wires = { varint: 0, double: 1, bytes: 2, single: 5 } as const;

/** Bytes of an integer, at most. */
const longestInteger = 10;

/** A tag and a length. */
const longestHead = 2 * longestInteger;

/** Messages lie close together: one read of the file gives many. */
const windowBytes = 1 << 16;

type Int64 = ReturnType<Reader['int64']>;

function numberOf(value: Int64): number {
  return typeof value === 'number' ? value : value.high * 2 ** 32 + (value.low >>> 0);
}

/** Messages of a file. */
export class Messages {
  readonly #source: Source;
  readonly #Reader: ReaderClass;
  #window: Uint8Array = new Uint8Array(0);
  #begin = 0;

  constructor(source: Source, Reader: ReaderClass) {
    this.#source = source;
    this.#Reader = Reader;
  }

  get all(): Range {
    return { begin: 0, end: this.#source.size };
  }

  read({ begin, end }: Range): Uint8Array {
    if (end - begin > windowBytes) return this.#source.read(begin, end);
    if (begin < this.#begin || end > this.#begin + this.#window.length) {
      this.#window = this.#source.read(begin, Math.min(begin + windowBytes, this.#source.size));
      this.#begin = begin;
    }
    return this.#window.subarray(begin - this.#begin, end - this.#begin);
  }

  /** Calls `visit` for each field of the message in a range. */
  fields(range: Range, visit: (field: Field) => void): void {
    for (let at = range.begin; at < range.end; ) {
      const field = this.#field(at, range.end);
      if (field.end > range.end)
        throw invalidFile(
          `the message at byte ${range.begin}`,
          `end at byte ${range.end}`,
          `a field until ${field.end}`,
        );
      visit(field);
      at = field.end;
    }
  }

  #field(at: number, end: number): Field {
    const reader = this.#Reader.create(this.read({ begin: at, end: Math.min(at + longestHead, end) }));
    try {
      const tag = reader.uint32();
      const number = tag >>> 3;
      const wire = tag & 7;
      const value = wire === wires.varint ? numberOf(reader.int64()) : Number.NaN;
      const length = this.#lengthOf(wire, reader);
      const begin = at + reader.pos;
      if (number > 0 && length !== undefined) return { number, wire, value, begin, end: begin + length };
    } catch (error) {
      throw invalidFile(`byte ${at}`, 'begin a field of protobuf', 'the end of its message', error);
    }
    throw invalidFile(`byte ${at}`, 'begin a field of protobuf', 'another tag');
  }

  #lengthOf(wire: number, reader: Reader): number | undefined {
    switch (wire) {
      case wires.varint:
        return 0;
      case wires.double:
        return 8;
      case wires.single:
        return 4;
      case wires.bytes: {
        const length = numberOf(reader.uint64());
        return Number.isSafeInteger(length) && length >= 0 ? length : undefined;
      }
      default:
        // Groups, which lie in each other; nothing that is read here has any.
        return undefined;
    }
  }

  /**
   * Calls `visit` for each integer of a repeated field: one, or many in a row.
   *
   * @param most how many there may be. Where there are more for certain, `refuse` is called and nothing is read.
   */
  integers(
    { wire, value, begin, end }: Field,
    most: number,
    refuse: () => never,
    visit: (value: number) => void,
  ): void {
    if (wire === wires.varint) visit(value);
    else if (wire === wires.bytes) {
      if (end - begin > most * longestInteger) refuse();
      const reader = this.#Reader.create(this.read({ begin, end }));
      try {
        while (reader.pos < reader.len) visit(numberOf(reader.int64()));
      } catch (error) {
        throw invalidFile(`byte ${begin}`, 'begin integers of protobuf', 'others', error);
      }
    } else throw invalidFile(`byte ${begin}`, 'begin integers of protobuf', `wire type ${wire}`);
  }

  text(field: Field, most = 1 << 16): string {
    this.#expect(field, wires.bytes);
    const { begin, end } = field;
    if (end - begin > most)
      throw invalidFile(`the text at byte ${begin}`, `have at most ${most} bytes`, `${end - begin}`);
    return new TextDecoder().decode(this.read({ begin, end }));
  }

  single(field: Field): number {
    this.#expect(field, wires.single);
    const bytes = this.read(field);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getFloat32(0, true);
  }

  integer(field: Field): number {
    this.#expect(field, wires.varint);
    return field.value;
  }

  /** A field that is a message. */
  message(field: Field): Range {
    this.#expect(field, wires.bytes);
    return { begin: field.begin, end: field.end };
  }

  #expect({ wire, begin }: Field, wanted: number): void {
    if (wire !== wanted)
      throw invalidFile(`the field at byte ${begin}`, `have wire type ${wanted}`, `${wire}`);
  }
}
