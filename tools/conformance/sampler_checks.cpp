// Links of the sampler chain: what they may do to a row, and how those that pick draw.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tools/conformance/checks.hpp"
#include "tools/conformance/sampler_run.hpp"

namespace patchbay::conformance {
namespace {

constexpr int64_t kVocab = 500;

// The link with its defaults and with every variant of its options that it takes.
void for_each_link(Kit& kit, Findings& findings, int64_t n_vocab,
                   const std::function<void(LinkRun&, const std::string&)>& f) {
  for (const auto& given : option_variants(kit.header(), kit.given())) {
    auto link = LinkRun::create(kit, n_vocab, given);
    if (link.ok()) {
      f(**link, to_text(given));
    } else if (given.size() == kit.given().size()) {
      findings.fail(link.error().in("create with default options"));
    }
  }
}

std::string bits_differ(const LinkRow& a, const LinkRow& b) {
  if (a.picked != b.picked) return fmt::format("picked {} and {}", a.picked, b.picked);
  for (size_t i = 0; i < a.logits.size(); ++i) {
    if (std::memcmp(&a.logits[i], &b.logits[i], 4) != 0)
      return fmt::format("logit {} is {} and {}", i, a.logits[i], b.logits[i]);
  }
  return "";
}

void a_neutral_link_changes_nothing(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_link(*kit, findings, kVocab, [&](LinkRun& link, const std::string& where) {
    if (!link.is_identity()) return;
    for (uint32_t seed = 0; seed < 5; ++seed) {
      const LinkRow before = random_row(kVocab, seed);
      auto after = link.apply(before);
      if (!after.ok()) return findings.fail(after.error().in(where));
      const std::string wrong = bits_differ(before, *after);
      if (!wrong.empty())
        return findings.fail(fmt::format("{}: is_identity says 1: expected the row as it was, got: {}", where, wrong));
    }
  });
}

void what_picks_the_largest_does(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_link(*kit, findings, kVocab, [&](LinkRun& link, const std::string& where) {
    if (!link.picks_largest()) return;
    for (uint32_t seed = 0; seed < 5; ++seed) {
      LinkRow row = random_row(kVocab, seed);
      const auto largest = static_cast<int32_t>(std::ranges::max_element(row.logits) - row.logits.begin());
      row.logits.back() = row.logits[static_cast<size_t>(largest)];  // the first of several counts
      auto after = link.apply(row);
      if (!after.ok()) return findings.fail(after.error().in(where));
      if (after->picked != largest) {
        return findings.fail(
            fmt::format("{}: picks_largest says 1: expected the first of the largest logits, {}, got {}", where,
                        largest, after->picked));
      }
    }
  });
}

void a_decided_row_is_left_alone(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_link(*kit, findings, kVocab, [&](LinkRun& link, const std::string& where) {
    for (const int32_t picked : {3, int32_t{MOE_PICKED_FAILED}}) {
      LinkRow before = random_row(kVocab, 2);
      before.picked = picked;
      auto after = link.apply(before);
      if (!after.ok()) return findings.fail(after.error().in(where));
      const std::string wrong = bits_differ(before, *after);
      if (!wrong.empty())
        return findings.fail(fmt::format("{}: a row that is decided: expected it as it was, got: {}", where, wrong));
    }
  });
}

void decides_by_its_capability(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  const bool picks = (kit->header().capabilities & MOE_CAP_PICKS) != 0;
  for_each_link(*kit, findings, kVocab, [&](LinkRun& link, const std::string& where) {
    for (uint32_t seed = 0; seed < 8; ++seed) {
      const LinkRow before = random_row(kVocab, seed);
      auto after = link.apply(before);
      if (!after.ok()) return findings.fail(after.error().in(where));
      if (picks && after->picked == MOE_PICKED_NONE)
        return findings.fail(
            fmt::format("{}: MOE_CAP_PICKS: expected every row to be decided, got one that is not", where));
      if (after->picked == MOE_PICKED_NONE) continue;
      if (after->picked < 0 || after->picked >= kVocab)
        return findings.fail(fmt::format("{}: picked: expected 0 to {}, got {}", where, kVocab - 1, after->picked));
      if (before.logits[static_cast<size_t>(after->picked)] == -std::numeric_limits<float>::infinity())
        return findings.fail(
            fmt::format("{}: expected a token that is still in, got {}, whose logit is -inf", where, after->picked));
    }
  });
}

std::vector<std::vector<float>> broken_logits() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  auto nan = random_row(kVocab, 2).logits;
  nan.back() = kNan;
  auto early = random_row(kVocab, 2).logits;
  early[0] = -kNan;
  auto infinite = random_row(kVocab, 2).logits;
  infinite[17] = kInf;
  return {nan, early, infinite, std::vector<float>(kVocab, -kInf), std::vector<float>(kVocab, kNan)};
}

bool is_broken(const std::vector<float>& logits) {
  bool any = false;
  for (const float x : logits) {
    if (std::isnan(x) || x == std::numeric_limits<float>::infinity()) return true;
    any = any || std::isfinite(x);
  }
  return !any;
}

void broken_logits_surface_in_their_row(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_link(*kit, findings, kVocab, [&](LinkRun& link, const std::string& where) {
    const LinkRow good = random_row(kVocab, 4);
    auto want = link.apply(good);
    if (!want.ok()) return findings.fail(want.error().in(where));
    for (const auto& logits : broken_logits()) {
      LinkRow bad = random_row(kVocab, 5);
      bad.logits = logits;
      auto rows = link.apply_together({good, bad, good}, {&link, &link, &link});
      if (!rows.ok())
        return findings.fail(rows.error().in(where + ": one row is broken: expected MOE_OK for the others' sake"));
      for (const size_t i : {0, 2}) {
        const std::string wrong = bits_differ((*rows)[i], *want);
        if (!wrong.empty())
          return findings.fail(
              fmt::format("{}: beside a broken row: expected the row as it is alone, got: {}", where, wrong));
      }
      const LinkRow& got = (*rows)[1];
      const bool decides = want->picked != MOE_PICKED_NONE;
      if (decides && got.picked != MOE_PICKED_FAILED)
        return findings.fail(fmt::format("{}: broken logits: expected MOE_PICKED_FAILED, got {}", where, got.picked));
      if (!decides && (got.picked >= 0 || !is_broken(got.logits)))
        return findings.fail(fmt::format(
            "{}: broken logits: expected them to stay broken for the link that decides, got a row that looks right",
            where));
    }
  });
}

void sampler_rows_do_not_depend_on_each_other(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  if ((kit->header().capabilities & MOE_CAP_BATCH_INVARIANT) == 0)
    return findings.skip("MOE_CAP_BATCH_INVARIANT is not claimed");
  for_each_link(*kit, findings, kVocab, [&](LinkRun& link, const std::string& where) {
    std::vector<LinkRow> rows, alone;
    std::vector<std::unique_ptr<LinkRun>> links;
    std::vector<LinkRun*> states;
    for (uint32_t i = 0; i < 9; ++i) {
      rows.push_back(random_row(kVocab, i));
      auto other = LinkRun::create(*kit, kVocab, link.given());
      if (!other.ok()) return findings.fail(other.error().in(where));
      auto one = (*other)->apply(rows.back());
      if (!one.ok()) return findings.fail(one.error().in(where));
      alone.push_back(std::move(one).value());
      auto mine = LinkRun::create(*kit, kVocab, link.given());
      if (!mine.ok()) return findings.fail(mine.error().in(where));
      links.push_back(std::move(mine).value());
    }
    std::reverse(rows.begin(), rows.end());
    for (auto& l : links) states.push_back(l.get());
    auto together = link.apply_together(rows, states);
    if (!together.ok()) return findings.fail(together.error().in(where));
    for (size_t i = 0; i < alone.size(); ++i) {
      const std::string wrong = bits_differ(alone[i], (*together)[alone.size() - 1 - i]);
      if (!wrong.empty())
        return findings.fail(
            fmt::format("{}: row {}: expected the same bits in company as alone, got: {}", where, i, wrong));
    }
  });
}

void a_copy_goes_on_alike(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_link(*kit, findings, kVocab, [&](LinkRun& link, const std::string& where) {
    auto first = link.apply(random_row(kVocab, 1));
    if (!first.ok()) return findings.fail(first.error().in(where));
    link.accept(7);
    auto copy = link.copy();
    if (!copy.ok()) return findings.fail(copy.error().in(where + ": copy"));
    LinkRow next = random_row(kVocab, 2);
    next.history.push_back(7);
    auto original = link.apply(next);
    auto copied = (*copy)->apply(next);
    if (!original.ok() || !copied.ok()) return findings.fail(where + ": apply after copy failed");
    const std::string wrong = bits_differ(*original, *copied);
    if (!wrong.empty())
      return findings.fail(fmt::format("{}: a copy: expected it to do what the original does, got: {}", where, wrong));
  });
}

// The chance that a chi-square of so many degrees of freedom is larger (Wilson and Hilferty 1931: its cube root is
// nearly normal).
double chi_square_tail(double x, double degrees) {
  const double z = (std::cbrt(x / degrees) - (1 - 2 / (9 * degrees))) / std::sqrt(2 / (9 * degrees));
  return 0.5 * std::erfc(z / std::sqrt(2.0));
}

void draws_from_the_distribution(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  if ((kit->header().capabilities & MOE_CAP_PICKS) == 0) return findings.skip("it does not pick");
  constexpr int64_t kTokens = 12;
  constexpr int64_t kDraws = 100000;
  LinkRow row = random_row(kTokens, 3);
  row.logits = {0.0F, 1.5F,  -2.0F, 0.7F, 2.2F, -0.4F, 1.5F, -std::numeric_limits<float>::infinity(),
                0.1F, -1.1F, 2.0F,  0.9F};
  row.history = {1};
  auto link = LinkRun::create(*kit, kTokens, kit->given());
  if (!link.ok()) return findings.fail(link.error());
  std::vector<int64_t> counts(kTokens, 0);
  for (int64_t i = 0; i < kDraws; ++i) {
    row.seed = 11;
    row.counter = static_cast<uint64_t>(i);
    auto got = (*link)->apply(row);
    if (!got.ok()) return findings.fail(got.error());
    if (got->picked < 0 || got->picked >= kTokens)
      return findings.fail(fmt::format("picked: expected 0 to {}, got {}", kTokens - 1, got->picked));
    ++counts[static_cast<size_t>(got->picked)];
  }
  const auto best = std::max_element(row.logits.begin(), row.logits.end()) - row.logits.begin();
  if (counts[static_cast<size_t>(best)] == kDraws) return findings.note("always the likeliest token");
  double sum = 0;
  for (const float l : row.logits) sum += std::exp(static_cast<double>(l));
  double chi_square = 0;
  int degrees = -1;
  for (size_t t = 0; t < kTokens; ++t) {
    const double expected = static_cast<double>(kDraws) * std::exp(static_cast<double>(row.logits[t])) / sum;
    if (expected == 0 && counts[t] > 0)
      return findings.fail(fmt::format("token {}: expected never, got {} of {} draws", t, counts[t], kDraws));
    if (expected == 0) continue;
    const double d = static_cast<double>(counts[t]) - expected;
    chi_square += d * d / expected;
    ++degrees;
  }
  const double p = chi_square_tail(chi_square, degrees);
  const std::string text = fmt::format("chi-square {:.1f} with {} degrees of freedom over {} draws, p = {:.2g}",
                                       chi_square, degrees, kDraws, p);
  if (!(p >= 1e-6)) findings.fail("draws: expected the softmax of the logits, got another distribution: " + text);
  findings.note(text);
}

}  // namespace

const std::vector<Check>& sampler_checks() {
  static const std::vector<Check> checks = [] {
    std::vector<Check> all = {
        {"a_neutral_link_changes_nothing", "what is_identity calls neutral is", a_neutral_link_changes_nothing},
        {"what_picks_the_largest_does", "what picks_largest names so picks the first of the largest",
         what_picks_the_largest_does},
        {"a_decided_row_is_left_alone", "a row that an earlier link decided stays as it is",
         a_decided_row_is_left_alone},
        {"decides_by_its_capability", "one that picks decides every row, for a token that is still in",
         decides_by_its_capability},
        {"broken_logits_surface_in_their_row", "NaN and infinity fail their own row, and only that",
         broken_logits_surface_in_their_row},
        {"rows_do_not_depend_on_each_other", "a row is the same bits in any company",
         sampler_rows_do_not_depend_on_each_other},
        {"a_copy_goes_on_alike", "a copy of a request's state does what the original does", a_copy_goes_on_alike},
        {"draws_from_the_distribution", "100,000 draws are those of the logits' softmax, or always the likeliest",
         draws_from_the_distribution},
    };
    append_general_checks(all);
    return all;
  }();
  return checks;
}

}  // namespace patchbay::conformance
