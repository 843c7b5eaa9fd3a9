/* An entry of the right name that says it was compiled against major version 2. Its functions crash: they must not be
 * called. */
#include "moe/abi/plugin.h"

static moe_status init(const moe_host* host, moe_message* message) {
  (void)host;
  (void)message;
  __builtin_trap();
}
static void deinit(void) { __builtin_trap(); }
static const moe_factory* get_factory(const char* kind_id) {
  (void)kind_id;
  __builtin_trap();
}

const moe_plugin moe_plugin_v1 = {.struct_size = sizeof(moe_plugin),
                                  .abi_major = 2,
                                  .name = "abi_major_2",
                                  .version = "2.0.0",
                                  .license = "MIT",
                                  .author = "Patchbay",
                                  .init = init,
                                  .deinit = deinit,
                                  .get_factory = get_factory};
