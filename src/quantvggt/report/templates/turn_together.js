// Turning one 3D view turns the others.
const views = [...document.querySelectorAll('.view .js-plotly-plot')];
let following = false;
for (const view of views) {
  const follow = event => {
    const camera = event['scene.camera'];
    if (!camera || following) return;
    following = true;
    const others = views.filter(other => other !== view);
    Promise.all(others.map(other => Plotly.relayout(other, {'scene.camera': camera})))
      .finally(() => { following = false; });
  };
  view.on('plotly_relayouting', follow);
  view.on('plotly_relayout', follow);
}
// The first plot was drawn before its neighbours took their share of the width.
window.dispatchEvent(new Event('resize'));
