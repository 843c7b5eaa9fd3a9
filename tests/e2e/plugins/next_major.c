/* A plugin of the next major version: its entry has another name. */
const int moe_plugin_v2 = 2;
