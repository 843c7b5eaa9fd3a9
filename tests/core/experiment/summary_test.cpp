#include "core/experiment/summary.hpp"

#include <gtest/gtest.h>

#include "core/experiment/html.hpp"
#include "core/experiment/table.hpp"
#include "tests/e2e/program.hpp"

namespace patchbay {
namespace {

using nlohmann::json;

json result_of(const std::string& model, const std::string& cell, double accuracy, bool own,
               const std::string& router) {
  return {{"cell", cell},
          {"key", cell},
          {"model", model},
          {"own_router", own},
          {"trained_router", "topk"},
          {"program", "1"},
          {"accuracy", {{"accuracy", accuracy}}},
          {"model_facts", {{"layers", {{{"router", router}}}}}}};
}

// Two seeds of one router, the first also under another router, and a cell that failed.
struct Case {
  Experiment plan;
  std::vector<json> results;
  Case() {
    for (const char* name : {"a0", "a1"}) plan.models.push_back({name, name, "topk", "a", false, ""});
    plan.left_out.push_back({"c", "c", "", "", true, ""});
    for (const char* id : {"a0", "a1", "a0 router=hash", "a1 router=hash"}) {
      Cell cell;
      cell.id = id;
      cell.model = cell.id.substr(0, 2);
      cell.own_router = cell.id.size() == 2;
      plan.cells.push_back(cell);
    }
    plan.cells[2].reference = 0;
    plan.cells[3].reference = 1;
    results = {result_of("a0", "a0", 0.99, true, "topk"),
               result_of("a1", "a1", 0.97, true, "topk"),
               result_of("a0", "a0 router=hash", 0.03, false, "hash"),
               {{"cell", "a1 router=hash"}, {"key", "k"}, {"error", "it broke"}}};
  }
};

TEST(ExperimentSummary, a_swapped_router_is_said_with_what_it_costs) {
  const Case c;
  const json summary = summary_of(c.plan, c.results);
  ASSERT_EQ(summary["cells"].size(), 3U);
  EXPECT_FALSE(summary["cells"][0].contains("cost"));
  EXPECT_EQ(summary["cells"][2]["cost"]["accuracy"], (json{{"from", 0.99}, {"to", 0.03}}));
  EXPECT_EQ(cost_text(summary["cells"][2]),
            "this routing is not the one that the model was trained with (hash instead of topk): 3.0 % right instead "
            "of 99.0 %");
}

TEST(ExperimentSummary, seeds_of_a_group_are_compared_and_what_is_not_there_is_named) {
  Case c;
  json summary = summary_of(c.plan, c.results);
  ASSERT_EQ(summary["groups"].size(), 1U);
  EXPECT_EQ(summary["groups"][0]["models"], (std::vector<std::string>{"a0", "a1"}));
  EXPECT_DOUBLE_EQ(summary["groups"][0]["accuracy"]["mean"], 0.98);
  const std::string table = table_of(summary);
  for (const char* part : {"| a0 router=hash * |", "a, 2 seeds: 98.00 % right on average (99.0, 97.0)",
                           "left out, since they are not there: c", "failed: a1 router=hash: it broke"}) {
    EXPECT_NE(table.find(part), std::string::npos) << part << " is not in\n" << table;
  }
  c.results[1] = nullptr;
  summary = summary_of(c.plan, c.results);
  EXPECT_EQ(summary["missing"], std::vector<std::string>{"a1"});
  EXPECT_TRUE(summary["groups"].empty());
}

TEST(ExperimentSummary, the_rows_of_a_table_are_equally_wide) {
  const Case c;
  const std::string table = table_of(summary_of(c.plan, c.results));
  const size_t width = table.find('\n');
  for (size_t row = 0; row < 5; ++row) EXPECT_EQ(table[(row + 1) * (width + 1) - 1], '\n') << table;
}

TEST(ExperimentReport, a_text_that_looks_like_markup_does_not_end_the_data) {
  const e2e::ScratchDir dir;
  e2e::write_text(dir / "report.html", "<!-- style --><!-- data --><!-- library --><!-- script -->");
  for (const char* file : {"report.css", "report.js", "chart.min.js"}) e2e::write_text(dir / file, file);
  const auto page = report_of({{"name", "</script><!-- data -->\xff"}}, dir.path());
  ASSERT_TRUE(page.ok()) << page.error().message;
  EXPECT_EQ(page->find("</script><!--"), std::string::npos) << *page;
  EXPECT_NE(page->find("\\u003c/script>\\u003c!-- data -->"), std::string::npos) << *page;
  EXPECT_FALSE(report_of({}, dir.path() / "nowhere").ok());
}

}  // namespace
}  // namespace patchbay
