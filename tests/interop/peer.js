// Node's @grpc/grpc-js as the client or the server of the interop cases.
//
// `peer.js server` prints where it listens and serves until it is killed.
// `peer.js client PORT` reads the names of cases from its standard input.
//
// Both print a line of JSON for each message that they send or receive, with its size; the client
// also one for each case. The packages are found through NODE_PATH.
'use strict';

const assert = require('node:assert');
const path = require('node:path');
const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const INITIAL = 'x-grpc-test-echo-initial';
const TRAILING = 'x-grpc-test-echo-trailing-bin';
// Long enough for a request to reach its server, short enough to wait for.
const A_MOMENT = 300;
// No RPC takes as long; a case that hangs is to fail.
const TOO_LONG = 30_000;

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const zeros = (size) => ({ body: Buffer.alloc(size) });

// The service's methods, made to tell of each message.
function methods(service, role) {
  const proto = path.join(__dirname, 'testing.proto');
  const definition = loader.loadSync(proto, { keepCase: true, defaults: true });
  const found = {};
  for (const [name, method] of Object.entries(definition[`grpc.testing.${service}`])) {
    const full_method = method.path.slice(1);
    const serializer = (serialize) => (message) => {
      const data = serialize(message);
      say({ full_method, sent: data.length });
      return data;
    };
    const deserializer = (deserialize) => (data) => {
      say({ full_method, received: data.length });
      return deserialize(data);
    };
    found[name] = { ...method };
    if (role === 'client') {
      found[name].requestSerialize = serializer(method.requestSerialize);
      found[name].responseDeserialize = deserializer(method.responseDeserialize);
    } else {
      found[name].responseSerialize = serializer(method.responseSerialize);
      found[name].requestDeserialize = deserializer(method.requestDeserialize);
    }
  }
  return found;
}

// The server.

// The trailers that a call asks for; its headers are sent.
function echo(call) {
  const trailers = new grpc.Metadata();
  const [initial] = call.metadata.get(INITIAL);
  const [trailing] = call.metadata.get(TRAILING);
  if (initial !== undefined) {
    const headers = new grpc.Metadata();
    headers.set(INITIAL, initial);
    call.sendMetadata(headers);
  }
  if (trailing !== undefined) trailers.set(TRAILING, trailing);
  return trailers;
}

function failure(request) {
  const status = request.response_status;
  return status && status.code ? { code: status.code, details: status.message } : null;
}

const handlers = {
  EmptyCall: (call, callback) => callback(null, {}),

  UnaryCall(call, callback) {
    const trailers = echo(call);
    callback(failure(call.request), { payload: zeros(call.request.response_size) }, trailers);
  },

  StreamingOutputCall(call) {
    for (const { size } of call.request.response_parameters) call.write({ payload: zeros(size) });
    call.end();
  },

  StreamingInputCall(call, callback) {
    let total = 0;
    call.on('data', (request) => (total += request.payload.body.length));
    call.on('end', () => callback(null, { aggregated_payload_size: total }));
  },

  FullDuplexCall(call) {
    const trailers = echo(call);
    let failed = null;
    call.on('data', (request) => {
      for (const { size } of request.response_parameters) call.write({ payload: zeros(size) });
      failed = failed ?? failure(request);
    });
    call.on('end', () => (failed ? call.emit('error', failed) : call.end(trailers)));
  },
};

function serve() {
  const server = new grpc.Server();
  server.addService(methods('TestService', 'server'), handlers);
  server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
    assert.ifError(error);
    process.stdout.write(`listening on 127.0.0.1:${port}\n`);
  });
}

// The client.

class Client {
  constructor(port) {
    const open = (service, options) => {
      const Stub = grpc.makeGenericClientConstructor(methods(service, 'client'), service);
      return new Stub(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), options);
    };
    this.plain = open('TestService', {});
    this.gzip = open('TestService', {
      'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip,
    });
    this.nowhere = open('UnimplementedService', {});
    this.statuses = [];
  }

  // A call under way: what it got, and promises of its next message and of its end.
  watch(call) {
    const seen = { call, messages: [], headers: null, status: null };
    let wake = () => {};
    const changed = () => new Promise((resolve) => (wake = resolve));
    call.on('metadata', (headers) => (seen.headers = headers));
    call.on('data', (message) => {
      seen.messages.push(message);
      wake();
    });
    call.on('error', () => {}); // the status says it, too
    call.on('status', (status) => {
      seen.status = status;
      this.statuses.push(status.code);
      wake();
    });
    seen.got = async (count) => {
      while (seen.messages.length < count) {
        assert(seen.status === null, `over: ${seen.status?.code} ${seen.status?.details}`);
        await changed();
      }
      return seen.messages[count - 1];
    };
    seen.over = async () => {
      while (seen.status === null) await changed();
      return seen.status;
    };
    return seen;
  }

  // A method with a single response: its response, once its status is known, too.
  async single(client, name, request, { metadata, write } = {}) {
    let seen;
    const response = await new Promise((resolve) => {
      const done = (error, response) => resolve(error ? null : response);
      const options = { deadline: Date.now() + TOO_LONG };
      const args = [metadata ?? new grpc.Metadata(), options, done];
      const call = write ? client[name](...args) : client[name](request, ...args);
      seen = this.watch(call);
      if (write) write(call);
    });
    return { response, status: await seen.over(), headers: seen.headers };
  }

  duplex({ metadata, deadline } = {}) {
    const options = { deadline: Date.now() + (deadline ?? TOO_LONG) };
    return this.watch(this.plain.FullDuplexCall(metadata ?? new grpc.Metadata(), options));
  }

  output(request) {
    const options = { deadline: Date.now() + TOO_LONG };
    return this.watch(this.plain.StreamingOutputCall(request, new grpc.Metadata(), options));
  }

  async empty_unary() {
    const { status } = await this.single(this.plain, 'EmptyCall', {});
    ok(status);
  }

  large(more) {
    return { response_size: 314159, payload: zeros(271828), ...more };
  }

  async large_call(client, request, options) {
    const got = await this.single(client, 'UnaryCall', request, options);
    ok(got.status);
    assert.deepStrictEqual(got.response.payload.body, Buffer.alloc(314159));
    return got;
  }

  async large_unary() {
    await this.large_call(this.plain, this.large());
  }

  async inputs(client, sizes, more) {
    const write = (call) => {
      for (const size of sizes) call.write({ payload: zeros(size), ...more });
      call.end();
    };
    return this.single(client, 'StreamingInputCall', undefined, { write });
  }

  async client_streaming() {
    const { response, status } = await this.inputs(this.plain, [27182, 8, 1828, 45904]);
    ok(status);
    assert.strictEqual(response.aggregated_payload_size, 74922);
  }

  async server_streaming() {
    const sizes = [31415, 9, 2653, 58979];
    const seen = this.output({ response_parameters: sizes.map((size) => ({ size })) });
    ok(await seen.over());
    assert.deepStrictEqual(seen.messages.map(body_size), sizes);
  }

  async ping_pong() {
    const seen = this.duplex();
    const turns = [[31415, 27182], [9, 8], [2653, 1828], [58979, 45904]];
    for (const [index, [response, request]] of turns.entries()) {
      seen.call.write(ping(response, request));
      assert.strictEqual(body_size(await seen.got(index + 1)), response);
    }
    seen.call.end();
    ok(await seen.over());
    assert.strictEqual(seen.messages.length, turns.length);
  }

  async empty_stream() {
    const seen = this.duplex();
    seen.call.end();
    ok(await seen.over());
    assert.strictEqual(seen.messages.length, 0);
  }

  async cancel_after_begin() {
    const write = (call) => {
      // Sent at once it would meet nobody: the server is to see the call and its end.
      setTimeout(() => call.cancel(), A_MOMENT);
    };
    const { status } = await this.single(this.plain, 'StreamingInputCall', undefined, { write });
    assert.strictEqual(status.code, grpc.status.CANCELLED);
  }

  async cancel_after_first_response() {
    const seen = this.duplex();
    seen.call.write(ping(31415, 27182));
    assert.strictEqual(body_size(await seen.got(1)), 31415);
    seen.call.cancel();
    assert.strictEqual((await seen.over()).code, grpc.status.CANCELLED);
  }

  async timeout_on_sleeping_server() {
    // A millisecond, as gRPC's own case has it, could be over before the request is sent.
    const seen = this.duplex({ deadline: A_MOMENT });
    seen.call.write({ payload: zeros(27182) });
    // tonic's server calls it CANCELLED, where its clock is first.
    const codes = [grpc.status.DEADLINE_EXCEEDED, grpc.status.CANCELLED];
    const { code, details } = await seen.over();
    assert(codes.includes(code), `${code} ${details}`);
  }

  async custom_metadata() {
    const metadata = new grpc.Metadata();
    metadata.set(INITIAL, 'test_initial_metadata_value');
    metadata.set(TRAILING, Buffer.from('ababab', 'hex'));
    const check = (headers, status) => {
      assert.deepStrictEqual(headers.get(INITIAL), ['test_initial_metadata_value']);
      assert.deepStrictEqual(status.metadata.get(TRAILING), [Buffer.from('ababab', 'hex')]);
    };
    const unary = await this.large_call(this.plain, this.large(), { metadata });
    check(unary.headers, unary.status);

    const seen = this.duplex({ metadata });
    seen.call.write(ping(314159, 271828));
    assert.strictEqual(body_size(await seen.got(1)), 314159);
    seen.call.end();
    ok(await seen.over());
    check(seen.headers, seen.status);
  }

  async status_code_and_message(message = 'test status message') {
    const check = (status) => {
      assert.strictEqual(status.code, grpc.status.UNKNOWN);
      assert.strictEqual(status.details, message);
    };
    const request = { response_status: { code: grpc.status.UNKNOWN, message } };
    check((await this.single(this.plain, 'UnaryCall', request)).status);
    const seen = this.duplex();
    seen.call.write(request);
    seen.call.end();
    check(await seen.over());
  }

  async special_status_message() {
    await this.status_code_and_message(
      '\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \u{1f608}\t\n',
    );
  }

  async unimplemented_method(client = this.plain) {
    const { status } = await this.single(client, 'UnimplementedCall', {});
    assert.strictEqual(status.code, grpc.status.UNIMPLEMENTED);
  }

  async unimplemented_service() {
    await this.unimplemented_method(this.nowhere);
  }

  async client_compressed_unary() {
    for (const [client, value] of [[this.gzip, true], [this.plain, false]]) {
      await this.large_call(client, this.large({ expect_compressed: { value } }));
    }
  }

  async client_compressed_unary_probe() {
    const request = this.large({ expect_compressed: { value: true } });
    const { status } = await this.single(this.plain, 'UnaryCall', request);
    assert.strictEqual(status.code, grpc.status.INVALID_ARGUMENT);
  }

  async server_compressed_unary() {
    for (const value of [true, false]) {
      await this.large_call(this.plain, this.large({ response_compressed: { value } }));
    }
  }

  async client_compressed_streaming() {
    // A stream's messages cannot get the flag one by one: Node's own streams refuse the flag.
    const expected = { expect_compressed: { value: true } };
    const { response, status } = await this.inputs(this.gzip, [27182, 45904], expected);
    ok(status);
    assert.strictEqual(response.aggregated_payload_size, 73086);
  }

  async client_compressed_streaming_probe() {
    const expected = { expect_compressed: { value: true } };
    const { status } = await this.inputs(this.plain, [27182], expected);
    assert.strictEqual(status.code, grpc.status.INVALID_ARGUMENT);
  }

  async server_compressed_streaming() {
    const response_parameters = [
      { size: 31415, compressed: { value: true } },
      { size: 92653, compressed: { value: false } },
    ];
    const seen = this.output({ response_parameters });
    ok(await seen.over());
    assert.deepStrictEqual(seen.messages.map(body_size), [31415, 92653]);
  }
}

function ping(response, request) {
  return { response_parameters: [{ size: response }], payload: zeros(request) };
}

const body_size = (message) => message.payload.body.length;

function ok(status) {
  assert.strictEqual(status.code, grpc.status.OK, status.details);
}

async function run_cases(port) {
  const client = new Client(port);
  for await (const name of readline.createInterface({ input: process.stdin })) {
    client.statuses = [];
    let error = null;
    try {
      await client[name]();
    } catch (failure) {
      error = String(failure);
    }
    say({ case: name, error, statuses: client.statuses });
  }
  process.exit(0);
}

if (process.argv[2] === 'server') {
  serve();
} else {
  run_cases(process.argv[3]);
}
