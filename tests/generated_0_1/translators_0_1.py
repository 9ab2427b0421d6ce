from metaflow_pipes.runtime import DagsterMetaflowTranslator


class ShopTranslator(DagsterMetaflowTranslator):
    def includes(self, flow, step):
        return step.name != "start"

    def get_asset_key(self, flow, step):
        return super().get_asset_key(flow, step).with_prefix("shop")
