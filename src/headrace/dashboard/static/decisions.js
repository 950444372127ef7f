// What autoscaling decided, when and why.

import { h } from "./dom.js";
import { ago, moment, plural } from "./format.js";
import { empty, table } from "./parts.js";
import { to } from "./router.js";

/** All decisions of some applications, newest first: [{app, deployment, at, previous, target, reason, policy}]. */
export function decisionsOf(apps) {
  return apps
    .flatMap((app) => app.deployments.flatMap((deployment) =>
      (deployment.autoscaling?.decisions || []).map((decision) => ({ app: app.name, deployment: deployment.name, ...decision }))))
    .sort((one, other) => other.at - one.at);
}

export const marksOf = (deployment) =>
  (deployment.autoscaling?.decisions || []).map((decision) => ({
    at: decision.at,
    text: `${decision.previous} → ${decision.target} replicas: ${decision.reason}`,
  }));

export function decisionList(decisions, { withApp = false } = {}) {
  if (!decisions.length) {
    return empty("No changes yet", h("p", {}, "Each change of a number of replicas is listed here, with its reason."));
  }
  return h("ol", { class: "timeline" }, decisions.map((decision) =>
    h("li", { class: decision.target > decision.previous ? "up" : "down",
      "data-key": `${decision.app}/${decision.deployment}/${decision.at}` },
      h("time", { datetime: new Date(decision.at * 1000).toISOString(), title: moment(decision.at) }, ago(decision.at)),
      h("span", { class: "change" }, `${decision.previous} → ${decision.target}`,
        h("span", { class: "hidden-text" }, decision.target > decision.previous ? " scaled up" : " scaled down")),
      h("span", { class: "what" }, h("a", { href: to("app", decision.app, "deployment", decision.deployment) },
        withApp ? `${decision.app} / ${decision.deployment}` : decision.deployment)),
      h("span", { class: "reason" }, decision.reason, decision.policy ? ` (policy ${decision.policy})` : ""))));
}

/** How each deployment of an application is scaled at present. */
export function scalingTable(app) {
  const scaled = app.deployments.filter((deployment) => deployment.autoscaling);
  if (!scaled.length) {
    return empty("No deployment is autoscaled",
      h("p", {}, "Set ", h("code", {}, 'num_replicas="auto"'), " or ", h("code", {}, "autoscaling_config"), " for that."));
  }
  return table("Autoscaling at present", [["Deployment"], ["Replicas", "num"], ["Bounds", "num"], ["Asked for", "num"], ["Why", "long"]],
    scaled.map((deployment) => {
      const scaling = deployment.autoscaling;
      return [deployment.name, [
        h("a", { href: to("app", app.name, "deployment", deployment.name) }, deployment.name),
        `${deployment.replica_states.RUNNING || 0}/${deployment.target_num_replicas}`,
        `${scaling.min_replicas ?? "–"} to ${scaling.max_replicas ?? "–"}`,
        scaling.needed === null || scaling.needed === undefined ? "–" : String(Math.round(scaling.needed * 100) / 100),
        [scaling.reason || plural(deployment.target_num_replicas, "replica"),
          scaling.policy_problem ? h("p", { class: "problem" }, scaling.policy_problem) : null],
      ]];
    }));
}
