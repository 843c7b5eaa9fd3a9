// A client of a Patchbay server over ZeroMQ: streams text, and goes on with it when the connection breaks.
//
//   apt install cmake g++ pkg-config libzmq3-dev cppzmq-dev libprotobuf-dev protobuf-compiler
//   cmake -S sdk/examples/cpp -B build-client && cmake --build build-client
//   patchbay serve --model configs/quickstart/model &
//   build-client/client tcp://127.0.0.1:5757 "What is 293 + 85?"
#include <iostream>

#include "moe/sdk/client.hpp"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: client ADDRESS QUESTION\n";
    return 2;
  }
  auto client = moe::Client::connect({.address = argv[1]});
  if (!client.ok()) {
    std::cerr << client.error().message << '\n';
    return 1;
  }
  patchbay::v1::Generate request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(argv[2]);
  request.set_split_reasoning(true);  // the thinking apart from the answer, as Tokens.reasoning

  const auto end =
      (*client)->generate(request, [](const patchbay::v1::Tokens& t) { std::cout << t.text() << std::flush; });
  std::cout << '\n';
  if (!end.ok()) {
    std::cerr << end.error().message << '\n';
    return 1;
  }
  if (end->has_error()) {
    std::cerr << end->error().message() << '\n';
    return 1;
  }
  std::cerr << end->usage().n_generated() << " tokens\n";
  return 0;
}
