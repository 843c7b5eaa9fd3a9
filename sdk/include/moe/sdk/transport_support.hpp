// What every transport over a network needs: lines for the operator, counters, a thread that leaves signals to the
// host, and whether an address can be reached from elsewhere. POSIX.
#pragma once

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>

#include <string>
#include <thread>
#include <utility>

#include "moe/sdk/plugin.hpp"

namespace moe {

// One line for the operator; `level` is a MOE_LOG_*. Nothing without a host. [thread-safe]
inline void log(int32_t level, const char* source, const std::string& text) {
  if (const moe_host* h = host()) h->log(h->self, level, source, text.c_str());
}

// Adds 1 to a counter of the host's, by its name in Prometheus' spelling. [thread-safe]
inline void count(const char* metric) {
  if (const moe_host* h = host()) h->metric_add(h->self, metric, 1);
}

// A thread that takes none of the process's signals, which are for the host's threads.
template <typename F>
std::thread thread_without_signals(F&& body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::forward<F>(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

// Whether a host of an address (127.0.0.1, [::1], localhost) is this machine's loopback. Numbers only, beside
// localhost: any other name may resolve to anything, and differently the next time.
inline bool is_loopback(std::string host) {
  if (host == "localhost") return true;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace moe
